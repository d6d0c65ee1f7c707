/** The list of pools, with their slots and conditions. */

import './pools.css';
import type { Pool } from '#shared/api.ts';

export function PoolList({ pools }: { readonly pools: readonly Pool[] }) {
  if (pools.length === 0) {
    return (
      <div className="empty">
        <strong>There are no pools yet</strong>
        <span>
          A session needs a pool: create a <code>WorkerPool</code> with kubectl.
        </span>
      </div>
    );
  }
  return (
    <ul className="pools" aria-label="Pools">
      {pools.map((pool) => (
        <li key={pool.name}>
          <PoolCard pool={pool} />
        </li>
      ))}
    </ul>
  );
}

function PoolCard({ pool }: { readonly pool: Pool }) {
  const { name, engine, default_display, healthy, slots, queued, ready_replicas, desired_replicas, conditions } = pool;
  const free = slots.total - slots.used;
  return (
    <article aria-labelledby={`pool-${name}`}>
      <header>
        <h2 id={`pool-${name}`}>{name}</h2>
        <PoolStatus healthy={healthy} ready={ready_replicas} />
        <span className="muted">
          Engine {engine}, default display {default_display}
        </span>
      </header>
      <meter
        aria-label={`Used slots of ${name}`}
        min={0}
        max={Math.max(slots.total, 1)}
        value={slots.used}
      >{`${slots.used} of ${slots.total}`}</meter>
      <dl className="numbers">
        <Metric name="Slots" value={slots.total} />
        <Metric name="Used" value={slots.used} />
        <Metric name="Free" value={free} />
        <Metric name="Hot" value={slots.hot} />
        <Metric name="Starting" value={slots.starting} />
        <Metric name="Queued" value={queued} />
        <Metric name="Runners ready" value={`${ready_replicas} of ${desired_replicas}`} />
      </dl>
      <table>
        <caption className="visually-hidden">Conditions of {name}</caption>
        <thead>
          <tr>
            <th scope="col">Condition</th>
            <th scope="col">Status</th>
            <th scope="col">Reason</th>
            <th scope="col">Message</th>
          </tr>
        </thead>
        <tbody>
          {conditions.map(({ type, status, reason, message }) => (
            <tr key={type}>
              <th scope="row">{type}</th>
              <td>{status}</td>
              <td>{reason}</td>
              <td>{message}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </article>
  );
}

/** Whether the pool serves sessions. A pool with some ready runners does, for example while others are replaced. */
function PoolStatus({ healthy, ready }: { readonly healthy: boolean; readonly ready: number }) {
  const [state, text] = healthy
    ? ['Ready', 'Serves sessions']
    : ready > 0
      ? ['Starting', 'Serves sessions, with fewer runners than desired']
      : ['Failed', 'Does not serve sessions'];
  return (
    <span className="state" data-state={state}>
      {text}
    </span>
  );
}

function Metric({ name, value }: { readonly name: string; readonly value: number | string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
