/** From what a person fills in to what the gateway is asked for, and which of its words belong to which field. Pure. */

import type { CreateSession, InvalidField } from '#shared/api.ts';

export interface Values {
  /** Name of a pool; empty for any. */
  readonly worker: string;
  readonly display: 'pool' | 'headless' | 'headful' | 'live-view';
  readonly start_url: string;
  readonly start_url_wait: 'load' | 'domcontentloaded' | 'none';
  /** Seconds, as typed; empty: as the pool has it. */
  readonly idle_ttl_seconds: string;
  readonly max_lifetime_seconds: string;
  /** One `key=value` per line. */
  readonly labels: string;
}

export type Field = keyof Values;
export type Faults = Partial<Record<Field, string>>;

export const empty: Values = {
  worker: '',
  display: 'live-view',
  start_url: '',
  start_url_wait: 'load',
  idle_ttl_seconds: '',
  max_lifetime_seconds: '',
  labels: '',
};

/** As the OpenAPI document has them. */
const idleLimits = { least: 30, most: 86_400 };
const lifeLimits = { least: 60, most: 604_800 };

/** What can be told to be wrong without asking the gateway. */
export function check(values: Values): Faults {
  return present({
    idle_ttl_seconds: checkSeconds(values.idle_ttl_seconds, idleLimits),
    max_lifetime_seconds: checkSeconds(values.max_lifetime_seconds, lifeLimits),
    labels: checkLabels(values.labels),
  });
}

function checkSeconds(text: string, { least, most }: typeof idleLimits): string | undefined {
  const seconds = text.trim();
  if (seconds === '') return undefined;
  const fits = /^\d+$/.test(seconds) && Number(seconds) >= least && Number(seconds) <= most;
  return fits ? undefined : `A whole number of seconds from ${least} to ${most}.`;
}

function checkLabels(text: string): string | undefined {
  const seen = new Set<string>();
  for (const line of linesOf(text)) {
    const [key, value] = pair(line);
    if (value === undefined || key === '') return `“${line}” is not of the form key=value.`;
    if (seen.has(key)) return `“${key}” is there twice.`;
    seen.add(key);
  }
  return undefined;
}

/** The request for values in which `check` finds nothing. */
export function bodyOf(values: Values): CreateSession {
  const body: CreateSession = {};
  if (values.worker !== '') body.worker = values.worker;
  if (values.display === 'live-view') body.vnc = true;
  else if (values.display !== 'pool') body.headless = values.display === 'headless';
  const url = values.start_url.trim();
  if (url !== '') Object.assign(body, { start_url: url, start_url_wait: values.start_url_wait });
  if (values.idle_ttl_seconds.trim() !== '') body.idle_ttl_seconds = Number(values.idle_ttl_seconds);
  if (values.max_lifetime_seconds.trim() !== '') body.max_lifetime_seconds = Number(values.max_lifetime_seconds);
  const labels = linesOf(values.labels).map((line) => pair(line) as [string, string]);
  if (labels.length > 0) body.labels = Object.fromEntries(labels);
  return body;
}

/** What the gateway refused, together with the values that it was asked for. */
export interface Refusal {
  readonly values: Values;
  readonly faults: Faults;
  /** What belongs to no field. */
  readonly others: readonly string[];
}

export function refusalOf(values: Values, fields: readonly InvalidField[]): Refusal {
  const faults: Faults = {};
  const others: string[] = [];
  for (const { loc, msg } of fields) {
    const field = fieldOf(loc);
    const words = loc[2] === undefined ? msg : `${loc.slice(2).join('.')}: ${msg}`;
    if (field === null) others.push(`${loc.join('.')}: ${msg}`);
    else faults[field] = faults[field] === undefined ? words : `${faults[field]} ${words}`;
  }
  return { values, faults, others };
}

function fieldOf([, name = '']: readonly string[]): Field | null {
  if (name === 'vnc' || name === 'headless') return 'display';
  return Object.keys(empty).find((field): field is Field => field === name) ?? null;
}

/** The faults that are still there: what the gateway refused is one for as long as it is the same as it was then. */
export function faultsNow(values: Values, refusal: Refusal | null): Faults {
  const stays = Object.entries(refusal?.faults ?? {}).filter(
    ([field]) => refusal?.values[field as Field] === values[field as Field],
  );
  return { ...Object.fromEntries(stays), ...check(values) };
}

function linesOf(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

/** The value may have `=` in it, too. */
function pair(line: string): [string, string | undefined] {
  const at = line.indexOf('=');
  return at === -1 ? [line, undefined] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
}

function present(faults: Record<string, string | undefined>): Faults {
  return Object.fromEntries(Object.entries(faults).filter(([, fault]) => fault !== undefined));
}
