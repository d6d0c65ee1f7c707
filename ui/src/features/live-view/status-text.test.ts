import { expect, test } from 'vitest';
import { type ConnectionEvent, initialState, reduce } from './connection.ts';
import { controlButtonOf, noticeOf } from './status-text.ts';

const view: ConnectionEvent = { type: 'connected', granted: 'view' };

test('control is offered to who watches, and can be given back', () => {
  expect(controlButtonOf(reduce(initialState('view'), view))).toEqual({
    scope: 'control',
    label: 'Take control',
    disabledReason: null,
  });
  const controlling = reduce(initialState('control'), { type: 'connected', granted: 'control' });
  expect(controlButtonOf(controlling)).toEqual({ scope: 'view', label: 'Stop controlling', disabledReason: null });
});

test('control that was asked for and not granted is not offered again, and the reason is said', () => {
  const { disabledReason } = controlButtonOf(reduce(initialState('control'), view));
  expect(disabledReason).toBe('Your token allows only to watch.');
});

test('there is nothing to control without a picture', () => {
  expect(controlButtonOf(initialState('view')).disabledReason).not.toBeNull();
});

test('a pause is told in seconds', () => {
  const closed: ConnectionEvent = { type: 'closed', code: 1011, reason: 'the runner is gone', connectedMs: 0 };
  expect(noticeOf(reduce(initialState('view'), closed))).toEqual({
    title: 'Reconnecting',
    text: 'the runner is gone. Next attempt in 1 s.',
  });
});
