import { expect, test } from 'vitest';
import { type ConnectionEvent, initialState, reduce } from './connection.ts';
import { controlButtonOf, noticeOf } from './status-text.ts';

const view: ConnectionEvent = { type: 'connected', granted: 'view' };

test('offers control with the scope view, and offers to give it back', () => {
  expect(controlButtonOf(reduce(initialState('view'), view))).toEqual({
    scope: 'control',
    label: 'Take control',
    disabledReason: null,
  });
  const controlling = reduce(initialState('control'), { type: 'connected', granted: 'control' });
  expect(controlButtonOf(controlling)).toEqual({ scope: 'view', label: 'Stop controlling', disabledReason: null });
});

test('does not offer control again after it was denied', () => {
  const { disabledReason } = controlButtonOf(reduce(initialState('control'), view));
  expect(disabledReason).toBe('Your token permits viewing only.');
});

test('does not offer control with a token that permits viewing only', () => {
  const { disabledReason } = controlButtonOf(reduce(initialState('view', 'view'), view));
  expect(disabledReason).toBe('Your token permits viewing only.');
});

test('does not offer control without a connection', () => {
  expect(controlButtonOf(initialState('view')).disabledReason).not.toBeNull();
});

test('shows the wait before the next attempt in seconds', () => {
  const closed: ConnectionEvent = { type: 'closed', code: 1011, reason: 'the runner is gone', connectedMs: 0 };
  expect(noticeOf(reduce(initialState('view'), closed))).toEqual({
    title: 'Reconnecting',
    text: 'the runner is gone. Next attempt in 1 s.',
  });
});
