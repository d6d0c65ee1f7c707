import { type ReactNode, useId } from 'react';

interface Props {
  readonly children: ReactNode;
  readonly onPress: () => void;
  /** Null when the button is enabled. */
  readonly disabledReason?: string | null;
  readonly primary?: boolean;
}

/**
 * A button that shows why it is disabled. It has `aria-disabled` instead of `disabled`, so that it keeps the focus
 * and the keyboard reaches it, with its reason.
 */
export function ActionButton({ children, onPress, disabledReason = null, primary = false }: Props) {
  const reasonId = useId();
  return (
    <span className="action-button">
      <button
        type="button"
        className={primary ? 'primary' : undefined}
        aria-disabled={disabledReason !== null}
        aria-describedby={disabledReason === null ? undefined : reasonId}
        title={disabledReason ?? undefined}
        onClick={() => {
          if (disabledReason === null) onPress();
        }}
      >
        {children}
      </button>
      {disabledReason !== null && (
        <span id={reasonId} className="visually-hidden">
          {disabledReason}
        </span>
      )}
    </span>
  );
}
