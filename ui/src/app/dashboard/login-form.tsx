import { type FormEvent, useState } from 'react';
import { FieldError, Input, Label, TextField } from 'react-aria-components';
import { answer, api, type Role } from '#shared/api.ts';

/** Asks for the token once: from then on the cookie counts, which no script can read. */
export function Login({ onLogin }: { readonly onLogin: (role: Role) => void }) {
  const [token, setToken] = useState('');
  const [fault, setFault] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setFault(null);
    try {
      const { role } = await answer(api.POST('/login', { body: { token: token.trim() } }));
      if (role) onLogin(role);
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    } finally {
      setBusy(false);
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
          isInvalid={fault !== null}
          isRequired
          validationBehavior="aria"
          autoFocus
        >
          <Label>Token</Label>
          <Input autoComplete="off" spellCheck="false" />
          <div role="alert">{fault !== null && <FieldError>{fault}</FieldError>}</div>
        </TextField>
        <button type="submit" className="primary" aria-disabled={busy}>
          Log in
        </button>
        <p>
          A static token of the fleet. <code>dev/up</code> prints one; with Helm, the notes of the release say where it
          is.
        </p>
      </form>
    </main>
  );
}
