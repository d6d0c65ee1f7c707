/** The client of the gateway's REST API, with the types of its OpenAPI document. */

import createClient from 'openapi-fetch';
import type { components, paths } from './openapi.gen.ts';

export type Session = components['schemas']['Session'];
/** The REST API calls a pool a worker. */
export type Pool = components['schemas']['Worker'];
export type Role = components['schemas']['Role'];
export type CreateSession = components['schemas']['CreateSession'];
export type InvalidField = components['schemas']['InvalidField'];

export const api = createClient<paths>({ baseUrl: '/api' });

/** The path of a namespace's API. `namespace`: null for the gateway's own. */
export function apiPath(namespace: string | null): string {
  return namespace === null ? '/api' : `/api/namespaces/${encodeURIComponent(namespace)}`;
}

/** The client for a namespace. `namespace`: null for the gateway's own. */
export function apiFor(namespace: string | null): typeof api {
  return namespace === null ? api : createClient<paths>({ baseUrl: apiPath(namespace) });
}

/** The query of the role that the user is logged in with; its data is null without a login. */
export const loginKey = ['login'];

/** A call that failed. `message` is shown to the user. */
export class ApiError extends Error {
  /** Null when the gateway did not answer. */
  readonly status: number | null;
  /** The invalid fields of the request, for status 422. */
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

/** Returns the data of a call, or throws `ApiError`. */
export async function unwrap<Data>(call: Promise<ApiResponse<Data>>): Promise<Data> {
  const { data, error, response } = await call.catch(() => {
    throw new ApiError(null, 'The gateway cannot be reached. Try again later.');
  });
  if (response.ok && data !== undefined) return data;
  throw toApiError(response.status, error);
}

/** Converts the body of a failed call. */
export function toApiError(status: number, body: unknown): ApiError {
  const detail = body !== null && typeof body === 'object' && 'detail' in body ? body.detail : null;
  if (typeof detail === 'string') return new ApiError(status, detail);
  if (Array.isArray(detail)) return new ApiError(status, 'Some fields are not valid.', detail as InvalidField[]);
  return new ApiError(status, `The gateway answered with status ${status}.`);
}
