/** The form to start a session. */

import { useMutation } from '@tanstack/react-query';
import { type FormEvent, useEffect, useRef, useState } from 'react';
import { FieldError, Input, Label, Radio, RadioGroup, Text, TextArea, TextField } from 'react-aria-components';
import { Action } from '#shared/action-button.tsx';
import { answer, apiOf, Refused, type Session } from '#shared/api.ts';
import { Choice } from '#shared/select-field.tsx';
import { bodyOf, check, type Field, faultsNow, type Refusal, refusalOf, type Values } from './start-request.ts';

interface Props {
  /** Where it is made; null for the gateway's own namespace. */
  readonly namespace: string | null;
  readonly pools: readonly string[];
  /** What is filled in; it outlives the form. */
  readonly draft: Values;
  readonly onDraft: (change: (before: Values) => Values) => void;
  /** Why no session may be started; null when one may. */
  readonly whyNot: string | null;
  readonly onStarted: (session: Session) => void;
  readonly onClose: () => void;
}

export function StartForm({ namespace, pools, draft, onDraft, whyNot, onStarted, onClose }: Props) {
  // Meanwhile it may be gone, or the namespace another.
  const values = pools.includes(draft.worker) ? draft : { ...draft, worker: '' };
  const [refusal, setRefusal] = useState<Refusal | null>(null);
  // Nobody is told of a fault while still typing for the first time.
  const [tried, setTried] = useState(false);
  /** How often a fault was in the way. */
  const [stops, setStops] = useState(0);
  const form = useRef<HTMLFormElement>(null);
  const asking = useRef<AbortController>(null);
  const submitting = useRef<HTMLButtonElement>(null);
  const start = useMutation({
    mutationFn: (asked: Values) => {
      asking.current = new AbortController();
      const { signal } = asking.current;
      return answer(apiOf(namespace).POST('/sessions', { body: bodyOf(asked), signal }));
    },
    onError: (error, asked) => {
      if (!(error instanceof Refused) || asking.current?.signal.aborted) return;
      setRefusal(refusalOf(asked, error.fields));
      setStops((before) => before + 1);
    },
  });

  const faults = tried ? faultsNow(values, refusal) : {};
  const isRefusal = start.error instanceof Refused && start.error.fields.length > 0;
  const isMended = isRefusal && Object.keys(faults).length === 0 && !refusal?.others.length;
  const set = (field: Field) => (value: string) => onDraft((before) => ({ ...before, [field]: value }));
  // The fields that are wrong are marked only once they are drawn.
  useEffect(() => {
    if (stops > 0) form.current?.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus();
  }, [stops]);

  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (whyNot !== null || start.isPending) return;
    setTried(true);
    if (Object.keys(check(values)).length > 0) setStops((before) => before + 1);
    else start.mutate(values, { onSuccess: onStarted });
  };

  // The gateway ends what it has made for a caller who goes.
  useEffect(() => () => asking.current?.abort(), []);
  const cancel = () => {
    asking.current?.abort();
    start.reset();
    submitting.current?.focus();
  };

  const text = (field: Field, label: string, hint: string, placeholder = '') => (
    <TextField
      value={values[field]}
      onChange={set(field)}
      isInvalid={faults[field] !== undefined}
      validationBehavior="aria"
    >
      <Label>{label}</Label>
      <Input placeholder={placeholder} spellCheck="false" autoComplete="off" />
      <Text slot="description">{hint}</Text>
      <FieldError>{faults[field]}</FieldError>
    </TextField>
  );

  return (
    <form className="start" ref={form} onSubmit={submit} aria-label="Start a session" noValidate>
      <header>
        <h2 tabIndex={-1}>Start a session</h2>
        <Action onAct={onClose}>Close</Action>
      </header>
      <div className="field">
        <Choice
          label="Pool"
          value={values.worker}
          options={[['', 'Any that can serve it'], ...pools.map((name) => [name, name] as const)]}
          onChange={set('worker')}
          fault={faults.worker}
        />
      </div>
      <RadioGroup
        value={values.display}
        onChange={set('display')}
        isInvalid={faults.display !== undefined}
        validationBehavior="aria"
      >
        <Label>Display</Label>
        <div className="radios">
          <Radio value="live-view">Live view</Radio>
          <Radio value="headful">Headful</Radio>
          <Radio value="headless">Headless</Radio>
          <Radio value="pool">As the pool has it</Radio>
        </div>
        <FieldError>{faults.display}</FieldError>
      </RadioGroup>
      {text('start_url', 'Start page', 'A bare host gets https:// before it.', 'example.org')}
      <div className="field">
        <Choice
          label="The start page counts as loaded"
          value={values.start_url_wait}
          options={[
            ['load', 'when everything is loaded'],
            ['domcontentloaded', 'when the document is there'],
            ['none', 'never: do not open it'],
          ]}
          onChange={set('start_url_wait')}
          fault={faults.start_url_wait}
        />
      </div>
      <div className="pair">
        {text('idle_ttl_seconds', 'Idle time in seconds', 'Ends after so long without activity.', 'As the pool has it')}
        {text('max_lifetime_seconds', 'Life time in seconds', 'Ends then whatever happens.', 'As the pool has it')}
      </div>
      <TextField
        value={values.labels}
        onChange={set('labels')}
        isInvalid={faults.labels !== undefined}
        validationBehavior="aria"
      >
        <Label>Labels</Label>
        <TextArea rows={3} placeholder="team=blue" spellCheck="false" />
        <Text slot="description">One key=value per line, to find it by.</Text>
        <FieldError>{faults.labels}</FieldError>
      </TextField>
      {start.error !== null && !start.isPending && !isMended && (
        <div role="alert" className="fault">
          {[start.error.message, ...(refusal?.others ?? [])].map((words) => (
            <p key={words}>{words}</p>
          ))}
        </div>
      )}
      <footer>
        <button
          ref={submitting}
          type="submit"
          className="primary"
          aria-disabled={whyNot !== null || start.isPending}
          aria-describedby="start-status"
        >
          Start
        </button>
        {start.isPending && <Action onAct={cancel}>Cancel</Action>}
        <span id="start-status" role="status" className="muted">
          {start.isPending
            ? 'It waits up to a minute for a slot and its browser. Whoever leaves the form takes it back.'
            : (whyNot ?? '')}
        </span>
      </footer>
    </form>
  );
}
