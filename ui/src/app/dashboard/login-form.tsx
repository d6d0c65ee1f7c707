import { type FormEvent, useState } from 'react';
import { FieldError, Input, Label, TextField } from 'react-aria-components';
import { api, type Role, unwrap } from '#shared/api.ts';

/** Exchanges a static token for the login cookie, which no script can read. */
export function LoginForm({ onLogin }: { readonly onLogin: (role: Role) => void }) {
  const [token, setToken] = useState('');
  const [error, setError] = useState<string | null>(null);
  const [isPending, setIsPending] = useState(false);

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (isPending) return;
    setIsPending(true);
    setError(null);
    try {
      const { role } = await unwrap(api.POST('/login', { body: { token: token.trim() } }));
      if (role) onLogin(role);
    } catch (reason) {
      setError(reason instanceof Error ? reason.message : String(reason));
    } finally {
      setIsPending(false);
    }
  };

  return (
    <main className="login">
      <form onSubmit={submit}>
        <h1>Camo-fleet</h1>
        <TextField
          type="password"
          value={token}
          onChange={setToken}
          isInvalid={error !== null}
          isRequired
          validationBehavior="aria"
          autoFocus
        >
          <Label>Token</Label>
          <Input autoComplete="off" spellCheck="false" />
          <div role="alert">{error !== null && <FieldError>{error}</FieldError>}</div>
        </TextField>
        <button type="submit" className="primary" aria-disabled={isPending}>
          Log in
        </button>
        <p>
          Log in with a static token of the fleet. <code>dev/up</code> prints one; the notes of the Helm release show
          how to read it from the cluster.
        </p>
      </form>
    </main>
  );
}
