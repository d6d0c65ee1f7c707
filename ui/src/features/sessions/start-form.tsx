/** The form that starts a session. */

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
  /** Null for the gateway's own. */
  readonly namespace: string | null;
  readonly pools: readonly string[];
  /** The values of the form. The owner keeps them while the form is closed. */
  readonly draft: FormValues;
  readonly onDraftChange: (update: (draft: FormValues) => FormValues) => void;
  /** Why the user cannot start a session; null if they can. */
  readonly disabledReason: string | null;
  readonly onStarted: (session: Session) => void;
  readonly onClose: () => void;
}

export function StartForm({ namespace, pools, draft, onDraftChange, disabledReason, onStarted, onClose }: Props) {
  // The pool may have been deleted since, or another namespace selected.
  const values = pools.includes(draft.pool) ? draft : { ...draft, pool: '' };
  const [rejection, setRejection] = useState<Rejection | null>(null);
  // Errors are shown only after the first attempt to submit.
  const [submitted, setSubmitted] = useState(false);
  /** Count of submits that failed. Each one moves the focus to the first invalid field. */
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
  // In an effect, because aria-invalid is set by the render.
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

  // The gateway deletes the session when its client disconnects before the answer.
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
          options={[['', 'Any suitable pool'], ...pools.map((name) => [name, name] as const)]}
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
          <Radio value="pool">Pool default</Radio>
        </div>
        <FieldError>{errors.display}</FieldError>
      </RadioGroup>
      {textField('start_url', 'Start page', 'https:// is added to a bare host.', 'example.org')}
      <div className="field">
        <SelectField
          label="Start page counts as loaded"
          value={values.start_url_wait}
          options={[
            ['load', 'when everything is loaded'],
            ['domcontentloaded', 'when the document is parsed'],
            ['none', 'never (do not open it)'],
          ]}
          onChange={set('start_url_wait')}
          error={errors.start_url_wait}
        />
      </div>
      <div className="pair">
        {textField(
          'idle_ttl_seconds',
          'Idle timeout in seconds',
          'Ends the session after this time without activity.',
          'Pool default',
        )}
        {textField(
          'max_lifetime_seconds',
          'Maximum lifetime in seconds',
          'Ends the session after this time, even if it is in use.',
          'Pool default',
        )}
      </div>
      <TextField
        value={values.labels}
        onChange={set('labels')}
        isInvalid={errors.labels !== undefined}
        validationBehavior="aria"
      >
        <Label>Labels</Label>
        <TextArea rows={3} placeholder="team=blue" spellCheck="false" />
        <Text slot="description">One key=value per line. Labels are searchable.</Text>
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
            ? 'Waiting up to a minute for a slot and a browser. Leaving the form cancels the start.'
            : (disabledReason ?? '')}
        </span>
      </footer>
    </form>
  );
}
