/** The live view of one session, in any element of any page. */

import './live-view.css';
import { element } from '#shared/dom.ts';
import { begin, type Happening, type Role, type State, step, type Task } from './connection.ts';
import { Dialled } from './rfb-connection.ts';
import { notice } from './status-text.ts';
import { askWhy } from './vnc-endpoint.ts';

export interface Options {
  /** The session's `/vnc/{namespace}/{name}`, with the scheme http or https. */
  readonly url: URL;
  /** Without one the login cookie counts. */
  readonly token: string | null;
  readonly wanted: Role;
  /** The session's name, for people. */
  readonly name: string;
  readonly onState: (state: State) => void;
  /** The keyboard's way out of the picture: give the focus to something else. */
  readonly onLeave: () => void;
}

/** A session that is ready answers sooner than this. */
const SLOW_MS = 1_500;

export class LiveView {
  readonly #options: Options;
  readonly #root: HTMLElement;
  readonly #picture = element('div', { class: 'live-view-picture' });
  readonly #title = element('strong', {});
  readonly #text = element('span', {});
  readonly #hurry = element('button', { type: 'button' }, 'Try now');
  readonly #onOnline = () => this.#take({ what: 'hurried' });
  /** Control was asked for, and was not had since. */
  #takesFocus: boolean;
  #state: State;
  #stop: () => void;
  #closed: Promise<void> = Promise.resolve();

  constructor(host: HTMLElement, options: Options) {
    this.#options = options;
    this.#root = element(
      'div',
      { class: 'live-view' },
      this.#picture,
      element(
        'div',
        { class: 'live-view-notice' },
        element('div', { class: 'live-view-words', role: 'status' }, this.#title, this.#text),
        this.#hurry,
      ),
    );
    host.append(this.#root);
    this.#hurry.addEventListener('click', this.#onOnline);
    window.addEventListener('online', this.#onOnline);
    this.#takesFocus = options.wanted === 'control';
    this.#state = begin(options.wanted);
    this.#show();
    this.#stop = this.#start(this.#state.task);
  }

  /** Asks for a role anew: the gateway decides again. */
  ask(role: Role): void {
    this.#takesFocus = role === 'control' && role !== this.#state.wanted;
    this.#take({ what: 'asked', role });
  }

  /** Ends the view, whatever state it is in. */
  remove(): void {
    this.#stop();
    window.removeEventListener('online', this.#onOnline);
    this.#root.remove();
  }

  #take(happening: Happening): void {
    const before = this.#state;
    this.#state = step(before, happening);
    if (this.#state === before) return;
    if (this.#state.shown.is === 'connected') this.#takesFocus = false;
    if (this.#state.task !== before.task) {
      this.#keepStill();
      this.#stop();
      this.#stop = this.#start(this.#state.task);
    }
    this.#show();
  }

  /** Begins a task and returns how to stop it. A task that was stopped tells nothing any more. */
  #start(task: Task | null): () => void {
    switch (task?.do) {
      case 'dial': {
        const { url, token, name, onLeave } = this.#options;
        const { wanted } = this.#state;
        const slow = this.#tellSlow();
        const tell = (happening: Happening) => this.#take(happening);
        const takesFocus = this.#takesFocus;
        const call = { host: this.#picture, url, token, wanted, takesFocus, name: `Screen of ${name}`, tell, onLeave };
        const dialled = new Dialled(call, this.#closed);
        return () => {
          clearTimeout(slow);
          this.#closed = dialled.hangUp();
        };
      }
      case 'ask': {
        const slow = this.#tellSlow();
        const stopped = new AbortController();
        askWhy(this.#options.url, this.#options.token, stopped.signal).then(
          (answer) => this.#take(answer),
          () => undefined, // it was stopped
        );
        return () => {
          clearTimeout(slow);
          stopped.abort();
        };
      }
      case 'wait': {
        // Spread, so that all the views of a gateway do not come back in the same moment.
        const timer = setTimeout(() => this.#take({ what: 'waited' }), task.ms * (0.9 + 0.2 * Math.random()));
        return () => clearTimeout(timer);
      }
      case undefined:
        return () => undefined;
    }
  }

  #tellSlow(): ReturnType<typeof setTimeout> {
    return setTimeout(() => this.#take({ what: 'slow' }), SLOW_MS);
  }

  #show(): void {
    const { shown } = this.#state;
    const { title, text } = notice(this.#state);
    this.#root.dataset.state = shown.is;
    this.#title.textContent = title;
    this.#text.textContent = text;
    this.#hurry.hidden = this.#state.task?.do !== 'wait';
    if (shown.is === 'connected' || this.#state.task === null) this.#still()?.remove();
    this.#options.onState(this.#state);
  }

  /** The last picture stays, dimmed, until there is a new one. noVNC takes its own away with the connection. */
  #keepStill(): void {
    const live = this.#picture.querySelector('canvas');
    if (live === null || live.width === 0) return;
    const still = element('canvas', { class: 'live-view-still', 'aria-hidden': 'true' });
    still.width = live.width;
    still.height = live.height;
    still.getContext('2d')?.drawImage(live, 0, 0);
    this.#still()?.remove();
    this.#picture.before(still);
  }

  #still(): Element | null {
    return this.#root.querySelector('.live-view-still');
  }
}
