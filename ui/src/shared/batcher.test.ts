import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createBatcher } from './batcher.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('the first at once, what follows in one, and again at once after a while', () => {
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

test('nothing is passed on after it was dropped', () => {
  const passed: (readonly number[])[] = [];
  const { add, cancel } = createBatcher<number>(250, (items) => passed.push(items));
  for (const item of [1, 2]) add(item);
  cancel();
  vi.advanceTimersByTime(1000);
  expect(passed).toEqual([[1]]);
});
