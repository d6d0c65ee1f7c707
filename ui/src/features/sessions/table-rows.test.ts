import { expect, test } from 'vitest';
import { testSession } from '#shared/test-data.ts';
import { updateRows } from './table-rows.ts';

test('reuses rows and their array while they look the same', () => {
  const [a, b] = [testSession('a'), testSession('b')];
  const first = updateRows([a, b], []);
  expect(updateRows([{ ...a, labels: { changed: 'yes' } }, b], first)).toBe(first);
  const reversed = updateRows([b, a], first);
  expect(reversed).toEqual([first[1], first[0]]);
  expect(reversed[0]).toBe(first[1]);
  const finished = updateRows([{ ...a, state: 'Finished' }, b], first);
  expect(finished[0]).not.toBe(first[0]);
  expect(finished[1]).toBe(first[1]);
  expect(updateRows([a], first)).toEqual([first[0]]);
});
