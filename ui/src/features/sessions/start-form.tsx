/** The form to start a session. */

import { useMutation } from '@tanstack/react-query';
import { type FormEvent, useEffect, useRef, useState } from 'react';
import { FieldError, Input, Label, Radio, RadioGroup, Text, TextArea, TextField } from 'react-aria-components';
import { ActionButton } from '#shared/action-button.tsx';
import { ApiError, apiFor, type Session, unwrap } from '#shared/api.ts';
import { SelectField } from '#shared/select-field.tsx';
import {
  currentErrors,
  type Field,
  type FormValues,
  type Rejection,
  toRejection,
  toRequest,
  validate,
} from './start-request.ts';

interface Props {
  /** Where it is made; null for the gateway's own namespace. */
  readonly namespace: string | null;
  readonly pools: readonly string[];
  /** What is filled in; it outlives the form. */
  readonly draft: FormValues;
  readonly onDraftChange: (update: (draft: FormValues) => FormValues) => void;
  /** Why the user must not start a session; null when it may. */
  readonly disabledReason: string | null;
  readonly onStarted: (session: Session) => void;
  readonly onClose: () => void;
}

export function StartForm({ namespace, pools, draft, onDraftChange, disabledReason, onStarted, onClose }: Props) {
  // Meanwhile it may be gone, or the namespace another.
  const values = pools.includes(draft.pool) ? draft : { ...draft, pool: '' };
  const [rejection, setRejection] = useState<Rejection | null>(null);
  // Nobody is told of a fault while still typing for the first time.
  const [submitted, setSubmitted] = useState(false);
  /** How often a fault was in the way. */
  const [failedSubmits, setFailedSubmits] = useState(0);
  const form = useRef<HTMLFormElement>(null);
  const request = useRef<AbortController>(null);
  const submitButton = useRef<HTMLButtonElement>(null);
  const start = useMutation({
    mutationFn: (submittedValues: FormValues) => {
      request.current = new AbortController();
      const { signal } = request.current;
      return unwrap(apiFor(namespace).POST('/sessions', { body: toRequest(submittedValues), signal }));
    },
    onError: (error, submittedValues) => {
      if (!(error instanceof ApiError) || request.current?.signal.aborted) return;
      setRejection(toRejection(submittedValues, error.fields));
      setFailedSubmits((count) => count + 1);
    },
  });

  const errors = submitted ? currentErrors(values, rejection) : {};
  const isRejection = start.error instanceof ApiError && start.error.fields.length > 0;
  const isCorrected = isRejection && Object.keys(errors).length === 0 && !rejection?.otherErrors.length;
  const set = (field: Field) => (value: string) => onDraftChange((values) => ({ ...values, [field]: value }));
  // The fields that are wrong are marked only once they are drawn.
  useEffect(() => {
    if (failedSubmits > 0) form.current?.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus();
  }, [failedSubmits]);

  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (disabledReason !== null || start.isPending) return;
    setSubmitted(true);
    if (Object.keys(validate(values)).length > 0) setFailedSubmits((count) => count + 1);
    else start.mutate(values, { onSuccess: onStarted });
  };

  // The gateway ends what it has made for a caller who goes.
  useEffect(() => () => request.current?.abort(), []);
  const cancel = () => {
    request.current?.abort();
    start.reset();
    submitButton.current?.focus();
  };

  const textField = (field: Field, label: string, hint: string, placeholder = '') => (
    <TextField
      value={values[field]}
      onChange={set(field)}
      isInvalid={errors[field] !== undefined}
      validationBehavior="aria"
    >
      <Label>{label}</Label>
      <Input placeholder={placeholder} spellCheck="false" autoComplete="off" />
      <Text slot="description">{hint}</Text>
      <FieldError>{errors[field]}</FieldError>
    </TextField>
  );

  return (
    <form className="start" ref={form} onSubmit={submit} aria-label="Start a session" noValidate>
      <header>
        <h2 tabIndex={-1}>Start a session</h2>
        <ActionButton onPress={onClose}>Close</ActionButton>
      </header>
      <div className="field">
        <SelectField
          label="Pool"
          value={values.pool}
          options={[['', 'Any that can serve it'], ...pools.map((name) => [name, name] as const)]}
          onChange={set('pool')}
          error={errors.pool}
        />
      </div>
      <RadioGroup
        value={values.display}
        onChange={set('display')}
        isInvalid={errors.display !== undefined}
        validationBehavior="aria"
      >
        <Label>Display</Label>
        <div className="radios">
          <Radio value="live-view">Live view</Radio>
          <Radio value="headful">Headful</Radio>
          <Radio value="headless">Headless</Radio>
          <Radio value="pool">As the pool has it</Radio>
        </div>
        <FieldError>{errors.display}</FieldError>
      </RadioGroup>
      {textField('start_url', 'Start page', 'A bare host gets https:// before it.', 'example.org')}
      <div className="field">
        <SelectField
          label="The start page counts as loaded"
          value={values.start_url_wait}
          options={[
            ['load', 'when everything is loaded'],
            ['domcontentloaded', 'when the document is there'],
            ['none', 'never: do not open it'],
          ]}
          onChange={set('start_url_wait')}
          error={errors.start_url_wait}
        />
      </div>
      <div className="pair">
        {textField(
          'idle_ttl_seconds',
          'Idle time in seconds',
          'Ends after so long without activity.',
          'As the pool has it',
        )}
        {textField('max_lifetime_seconds', 'Life time in seconds', 'Ends then whatever happens.', 'As the pool has it')}
      </div>
      <TextField
        value={values.labels}
        onChange={set('labels')}
        isInvalid={errors.labels !== undefined}
        validationBehavior="aria"
      >
        <Label>Labels</Label>
        <TextArea rows={3} placeholder="team=blue" spellCheck="false" />
        <Text slot="description">One key=value per line, to find it by.</Text>
        <FieldError>{errors.labels}</FieldError>
      </TextField>
      {start.error !== null && !start.isPending && !isCorrected && (
        <div role="alert" className="error-text">
          {[start.error.message, ...(rejection?.otherErrors ?? [])].map((message) => (
            <p key={message}>{message}</p>
          ))}
        </div>
      )}
      <footer>
        <button
          ref={submitButton}
          type="submit"
          className="primary"
          aria-disabled={disabledReason !== null || start.isPending}
          aria-describedby="start-status"
        >
          Start
        </button>
        {start.isPending && <ActionButton onPress={cancel}>Cancel</ActionButton>}
        <span id="start-status" role="status" className="muted">
          {start.isPending
            ? 'It waits up to a minute for a slot and its browser. Whoever leaves the form takes it back.'
            : (disabledReason ?? '')}
        </span>
      </footer>
    </form>
  );
}
