import { type ReactNode, useId } from 'react';

interface Props {
  readonly children: ReactNode;
  readonly onAct: () => void;
  /** Why it may not be done; null when it may. */
  readonly whyNot?: string | null;
  readonly primary?: boolean;
  readonly label?: string;
}

/**
 * A button that says why it may not be pressed. Not `disabled`: it must keep the focus, and be found by those who ask why.
 */
export function Action({ children, onAct, whyNot = null, primary = false, label }: Props) {
  const reason = useId();
  return (
    <span className="action">
      <button
        type="button"
        className={primary ? 'primary' : undefined}
        aria-label={label}
        aria-disabled={whyNot !== null}
        aria-describedby={whyNot === null ? undefined : reason}
        title={whyNot ?? undefined}
        onClick={() => {
          if (whyNot === null) onAct();
        }}
      >
        {children}
      </button>
      {whyNot !== null && (
        <span id={reason} className="hidden-words">
          {whyNot}
        </span>
      )}
    </span>
  );
}
