/**
 * Passes items on in batches: the first at once, and the items that follow within `intervalMs` together at the end of
 * the interval.
 */
export function createBatcher<Item>(intervalMs: number, onBatch: (items: readonly Item[]) => void) {
  let pending: Item[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  const flush = () => {
    timer = undefined;
    if (pending.length === 0) return;
    const items = pending;
    pending = [];
    timer = setTimeout(flush, intervalMs);
    onBatch(items);
  };
  return {
    add: (item: Item) => {
      pending.push(item);
      if (timer === undefined) flush();
    },
    /** Drops the pending items. */
    cancel: () => clearTimeout(timer),
  };
}
