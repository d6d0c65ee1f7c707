import { expect, test } from 'vitest';
import { begin, type Happening, step } from './connection.ts';
import { controlOffer, notice } from './status-text.ts';

const view: Happening = { what: 'connected', granted: 'view' };

test('control is offered to who watches, and can be given back', () => {
  expect(controlOffer(step(begin('view'), view))).toEqual({ role: 'control', name: 'Take control', whyNot: null });
  const controlling = step(begin('control'), { what: 'connected', granted: 'control' });
  expect(controlOffer(controlling)).toEqual({ role: 'view', name: 'Stop controlling', whyNot: null });
});

test('control that was asked for and not granted is not offered again, and the reason is said', () => {
  expect(controlOffer(step(begin('control'), view)).whyNot).toBe('Your token allows only to watch.');
});

test('there is nothing to control without a picture', () => {
  expect(controlOffer(begin('view')).whyNot).not.toBeNull();
});

test('a pause is told in seconds', () => {
  const waiting = step(begin('view'), { what: 'closed', code: 1011, reason: 'the runner is gone', heldMs: 0 });
  expect(notice(waiting)).toEqual({ title: 'Reconnecting', text: 'the runner is gone. Next attempt in 1 s.' });
});
