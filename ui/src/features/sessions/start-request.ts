/**
 * Validates the form that starts a session, converts it to a request, and assigns the gateway's errors to fields.
 * Pure.
 */

import type { CreateSession, InvalidField } from '#shared/api.ts';

/** Fields are named as in the request, except `pool` (`worker` there) and `display` (`vnc` and `headless` there). */
export interface FormValues {
  /** Name of a pool; empty for any. */
  readonly pool: string;
  readonly display: 'pool' | 'headless' | 'headful' | 'live-view';
  readonly start_url: string;
  readonly start_url_wait: 'load' | 'domcontentloaded' | 'none';
  /** Seconds, as typed; empty for the pool's default. */
  readonly idle_ttl_seconds: string;
  readonly max_lifetime_seconds: string;
  /** One `key=value` per line. */
  readonly labels: string;
}

export type Field = keyof FormValues;
export type FieldErrors = Partial<Record<Field, string>>;

export const emptyForm: FormValues = {
  pool: '',
  display: 'live-view',
  start_url: '',
  start_url_wait: 'load',
  idle_ttl_seconds: '',
  max_lifetime_seconds: '',
  labels: '',
};

/** The limits in the OpenAPI document. */
const idleLimits = { min: 30, max: 86_400 };
const lifetimeLimits = { min: 60, max: 604_800 };

/** The errors that are found without a request. */
export function validate(values: FormValues): FieldErrors {
  const errors: Record<string, string | undefined> = {
    idle_ttl_seconds: secondsError(values.idle_ttl_seconds, idleLimits),
    max_lifetime_seconds: secondsError(values.max_lifetime_seconds, lifetimeLimits),
    labels: labelsError(values.labels),
  };
  return Object.fromEntries(Object.entries(errors).filter(([, error]) => error !== undefined));
}

function secondsError(text: string, { min, max }: typeof idleLimits): string | undefined {
  const seconds = text.trim();
  if (seconds === '') return undefined;
  const isValid = /^\d+$/.test(seconds) && Number(seconds) >= min && Number(seconds) <= max;
  return isValid ? undefined : `Enter a whole number of seconds from ${min} to ${max}.`;
}

function labelsError(text: string): string | undefined {
  const seen = new Set<string>();
  for (const line of linesOf(text)) {
    const [key, value] = parseLabel(line);
    if (value === undefined || key === '') return `“${line}” is not in the form key=value.`;
    if (seen.has(key)) return `The key “${key}” occurs twice.`;
    seen.add(key);
  }
  return undefined;
}

/** Converts values in which `validate` finds no error. */
export function toRequest(values: FormValues): CreateSession {
  const request: CreateSession = {};
  if (values.pool !== '') request.worker = values.pool;
  if (values.display === 'live-view') request.vnc = true;
  else if (values.display !== 'pool') request.headless = values.display === 'headless';
  const url = values.start_url.trim();
  if (url !== '') Object.assign(request, { start_url: url, start_url_wait: values.start_url_wait });
  if (values.idle_ttl_seconds.trim() !== '') request.idle_ttl_seconds = Number(values.idle_ttl_seconds);
  if (values.max_lifetime_seconds.trim() !== '') request.max_lifetime_seconds = Number(values.max_lifetime_seconds);
  const labels = linesOf(values.labels).map((line) => parseLabel(line) as [string, string]);
  if (labels.length > 0) request.labels = Object.fromEntries(labels);
  return request;
}

/** A request that the gateway rejected with 422. */
export interface Rejection {
  readonly values: FormValues;
  readonly errors: FieldErrors;
  /** Errors that belong to no field of the form. */
  readonly otherErrors: readonly string[];
}

export function toRejection(values: FormValues, invalidFields: readonly InvalidField[]): Rejection {
  const errors: FieldErrors = {};
  const otherErrors: string[] = [];
  for (const { loc, msg } of invalidFields) {
    const field = fieldOf(loc);
    const error = loc[2] === undefined ? msg : `${loc.slice(2).join('.')}: ${msg}`;
    if (field === null) otherErrors.push(`${loc.join('.')}: ${msg}`);
    else errors[field] = errors[field] === undefined ? error : `${errors[field]} ${error}`;
  }
  return { values, errors, otherErrors };
}

function fieldOf([, name = '']: readonly string[]): Field | null {
  if (name === 'worker') return 'pool';
  if (name === 'vnc' || name === 'headless') return 'display';
  return Object.keys(emptyForm).find((field): field is Field => field === name) ?? null;
}

/** The errors of the current values. A rejected field keeps its error until its value changes. */
export function currentErrors(values: FormValues, rejection: Rejection | null): FieldErrors {
  const unchanged = Object.entries(rejection?.errors ?? {}).filter(
    ([field]) => rejection?.values[field as Field] === values[field as Field],
  );
  return { ...Object.fromEntries(unchanged), ...validate(values) };
}

function linesOf(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

/** Splits at the first `=`, because a value can contain more of them. */
function parseLabel(line: string): [string, string | undefined] {
  const at = line.indexOf('=');
  return at === -1 ? [line, undefined] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
}
