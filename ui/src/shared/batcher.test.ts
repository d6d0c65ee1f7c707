import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createBatcher } from './batcher.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('passes the first item at once and batches those that follow', () => {
  const passed: (readonly number[])[] = [];
  const { add } = createBatcher<number>(250, (items) => passed.push(items));
  for (const item of [1, 2, 3]) add(item);
  expect(passed).toEqual([[1]]);
  vi.advanceTimersByTime(250);
  expect(passed).toEqual([[1], [2, 3]]);
  add(4);
  vi.advanceTimersByTime(1000);
  expect(passed).toEqual([[1], [2, 3], [4]]);
  add(5);
  expect(passed).toEqual([[1], [2, 3], [4], [5]]);
});

test('drops pending items when it is cancelled', () => {
  const passed: (readonly number[])[] = [];
  const { add, cancel } = createBatcher<number>(250, (items) => passed.push(items));
  for (const item of [1, 2]) add(item);
  cancel();
  vi.advanceTimersByTime(1000);
  expect(passed).toEqual([[1]]);
});
