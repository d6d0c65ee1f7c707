/** The first is passed on at once, and what follows it within so many milliseconds in one. */
export function inBatches<Item>(ms: number, pass: (items: readonly Item[]) => void) {
  let waiting: Item[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  const flush = () => {
    timer = undefined;
    if (waiting.length === 0) return;
    const items = waiting;
    waiting = [];
    timer = setTimeout(flush, ms);
    pass(items);
  };
  return {
    tell: (item: Item) => {
      waiting.push(item);
      if (timer === undefined) flush();
    },
    /** What was not passed on is not any more. */
    drop: () => clearTimeout(timer),
  };
}
