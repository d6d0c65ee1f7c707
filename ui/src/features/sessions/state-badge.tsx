/** The state of a session: a word with a dot, so that it never is told by colour alone. */
export function State({ state }: { readonly state: string }) {
  return (
    <span className="state" data-state={state}>
      {state}
    </span>
  );
}
