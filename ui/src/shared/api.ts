/** The gateway's REST API, in the words of its OpenAPI document. */

import createClient from 'openapi-fetch';
import type { components, paths } from './openapi.gen.ts';

export type Session = components['schemas']['Session'];
/** The REST API calls a pool a worker. */
export type Pool = components['schemas']['Worker'];
export type Role = components['schemas']['Role'];
export type CreateSession = components['schemas']['CreateSession'];
export type InvalidField = components['schemas']['InvalidField'];

// Looks fetch up at each call, so that the page's own is used.
export const api = createClient<paths>({ baseUrl: '/api' });

/** Where the calls of a namespace are; null for the gateway's own. */
export function apiPath(namespace: string | null): string {
  return namespace === null ? '/api' : `/api/namespaces/${encodeURIComponent(namespace)}`;
}

/** The API of a namespace; null for the gateway's own. */
export function apiFor(namespace: string | null): typeof api {
  return namespace === null ? api : createClient<paths>({ baseUrl: apiPath(namespace) });
}

/** Who is logged in, in the query cache. */
export const loginKey = ['login'];

/** An answer that is no success. `message`: what to tell people. */
export class ApiError extends Error {
  /** Null when there was no answer. */
  readonly status: number | null;
  /** What is wrong with the fields of the request, of a 422. */
  readonly fields: readonly InvalidField[];

  constructor(status: number | null, message: string, fields: readonly InvalidField[] = []) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.fields = fields;
  }
}

interface ApiResponse<Data> {
  readonly data?: Data;
  readonly error?: unknown;
  readonly response: Response;
}

/** What a call gives, or throws `ApiError`. */
export async function unwrap<Data>(call: Promise<ApiResponse<Data>>): Promise<Data> {
  const { data, error, response } = await call.catch(() => {
    throw new ApiError(null, 'The gateway cannot be reached. Try again when it is back.');
  });
  if (response.ok && data !== undefined) return data;
  throw toApiError(response.status, error);
}

/** Reads the body of an answer that is no success. */
export function toApiError(status: number, body: unknown): ApiError {
  const detail = body !== null && typeof body === 'object' && 'detail' in body ? body.detail : null;
  if (typeof detail === 'string') return new ApiError(status, detail);
  if (Array.isArray(detail)) return new ApiError(status, 'Some fields are not valid.', detail as InvalidField[]);
  return new ApiError(status, `The gateway answered with status ${status}.`);
}
