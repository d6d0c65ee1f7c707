/** Sessions and pools for unit tests and browser tests. */

import type { Pool, Session } from './api.ts';

export function testSession(id: string, changes: Partial<Session> = {}): Session {
  return {
    worker: 'camoufox',
    id,
    namespace: 'team-a',
    status: 'READY',
    state: 'Ready',
    created_at: '2026-01-01T12:00:00Z',
    last_seen_at: '2026-01-01T12:00:00Z',
    headless: false,
    labels: {},
    clients: 0,
    idle_ttl_seconds: 300,
    reconnect_grace_seconds: 60,
    ws_endpoint: `/api/sessions/camoufox/${id}/ws`,
    ws_url: `ws://127.0.0.1/api/sessions/camoufox/${id}/ws`,
    vnc_enabled: false,
    start_url_wait: 'load',
    ...changes,
  };
}

export function testPool(name: string, changes: Partial<Pool> = {}): Pool {
  return {
    name,
    namespace: 'team-a',
    healthy: true,
    detail: { status: 'ok', version: '0.1.0', checks: { Available: 'True' } },
    supports_vnc: true,
    default_display: 'Headless',
    engine: 'Camoufox',
    desired_replicas: 2,
    ready_replicas: 2,
    slots: { total: 8, used: 3, hot: 4, starting: 1 },
    queued: 0,
    conditions: [{ type: 'Available', status: 'True', reason: 'RunnersReady', message: '2 of 2 runners are ready' }],
    ...changes,
  };
}
