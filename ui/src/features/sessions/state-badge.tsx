/** The state of a session as a word with a dot, because colour alone does not inform every user. */
export function StateBadge({ state }: { readonly state: string }) {
  return (
    <span className="state" data-state={state}>
      {state}
    </span>
  );
}
