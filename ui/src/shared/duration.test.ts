import { expect, test } from 'vitest';
import { formatDuration } from './duration.ts';

test('formats a duration in at most two units', () => {
  expect([0, 42.9, 60, 200, 7500, 360_000, -3].map(formatDuration)).toEqual([
    '0 s',
    '42 s',
    '1 min',
    '3 min 20 s',
    '2 h 5 min',
    '4 d 4 h',
    '0 s',
  ]);
});
