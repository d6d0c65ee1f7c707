/**
 * The live view of one session, for any element of any page. Runs the effects of the connection's state machine and
 * renders its state.
 */

import './live-view.css';
import { createElement } from '#shared/dom.ts';
import {
  type ConnectionEvent,
  type ConnectionState,
  type Effect,
  initialState,
  reduce,
  type Scope,
} from './connection.ts';
import { RfbConnection } from './rfb-connection.ts';
import { permittedScope } from './session-token.ts';
import { noticeOf } from './status-text.ts';
import { probe } from './vnc-endpoint.ts';

export interface LiveViewOptions {
  /** The session's `/vnc/{namespace}/{name}`, with the scheme http or https. */
  readonly url: URL;
  /** Null: authenticate with the login cookie. */
  readonly token: string | null;
  readonly scope: Scope;
  /** How the session is called in accessible names. */
  readonly name: string;
  readonly onStateChange: (state: ConnectionState) => void;
  /** The user released the keyboard: give the focus to another element. */
  readonly onKeyboardRelease: () => void;
}

/** A session that is ready connects in less time. */
const SLOW_MS = 1_500;

export class LiveViewWidget {
  readonly #options: LiveViewOptions;
  readonly #root: HTMLElement;
  readonly #picture = createElement('div', { class: 'live-view-picture' });
  readonly #title = createElement('strong', {});
  readonly #text = createElement('span', {});
  readonly #retryButton = createElement('button', { type: 'button' }, 'Try now');
  readonly #retry = () => this.#dispatch({ type: 'retry-requested' });
  /** Control was requested, and the picture has not taken the focus since. */
  #focusPending: boolean;
  #state: ConnectionState;
  #stopEffect: () => void;
  #socketClosed: Promise<void> = Promise.resolve();

  constructor(host: HTMLElement, options: LiveViewOptions) {
    this.#options = options;
    this.#root = createElement(
      'div',
      { class: 'live-view' },
      this.#picture,
      createElement(
        'div',
        { class: 'live-view-notice' },
        createElement('div', { class: 'live-view-text', role: 'status' }, this.#title, this.#text),
        this.#retryButton,
      ),
    );
    host.append(this.#root);
    this.#retryButton.addEventListener('click', this.#retry);
    window.addEventListener('online', this.#retry);
    this.#state = initialState(options.scope, permittedScope(options.token));
    this.#focusPending = this.#state.requested === 'control';
    this.#render();
    this.#stopEffect = this.#start(this.#state.effect);
  }

  /** Reconnects with another scope. The gateway decides which scope it grants. */
  requestScope(scope: Scope): void {
    this.#focusPending = scope === 'control' && scope !== this.#state.requested;
    this.#dispatch({ type: 'scope-requested', scope });
  }

  /** Closes the connection and removes the elements. */
  remove(): void {
    this.#stopEffect();
    window.removeEventListener('online', this.#retry);
    this.#root.remove();
  }

  #dispatch(event: ConnectionEvent): void {
    const previous = this.#state;
    this.#state = reduce(previous, event);
    if (this.#state === previous) return;
    if (this.#state.phase.type === 'connected') this.#focusPending = false;
    if (this.#state.effect !== previous.effect) {
      this.#freezePicture();
      this.#stopEffect();
      this.#stopEffect = this.#start(this.#state.effect);
    }
    this.#render();
  }

  /** Starts an effect and returns how to stop it. A stopped effect dispatches no more events. */
  #start(effect: Effect | null): () => void {
    switch (effect?.type) {
      case 'connect': {
        const { url, token, name, onKeyboardRelease } = this.#options;
        const slowTimer = this.#startSlowTimer();
        const options = {
          host: this.#picture,
          url,
          token,
          scope: this.#state.requested,
          takeFocus: this.#focusPending,
          name: `Screen of ${name}`,
          onEvent: (event: ConnectionEvent) => this.#dispatch(event),
          onKeyboardRelease,
        };
        const connection = new RfbConnection(options, this.#socketClosed);
        return () => {
          clearTimeout(slowTimer);
          this.#socketClosed = connection.close();
        };
      }
      case 'probe': {
        const slowTimer = this.#startSlowTimer();
        const stopped = new AbortController();
        probe(this.#options.url, this.#options.token, stopped.signal).then(
          (event) => this.#dispatch(event),
          () => undefined, // stopped
        );
        return () => {
          clearTimeout(slowTimer);
          stopped.abort();
        };
      }
      case 'wait': {
        // Jitter, so that the views of a gateway do not all reconnect at the same moment.
        const ms = effect.ms * (0.9 + 0.2 * Math.random());
        const timer = setTimeout(() => this.#dispatch({ type: 'wait-elapsed' }), ms);
        return () => clearTimeout(timer);
      }
      case undefined:
        return () => undefined;
    }
  }

  #startSlowTimer(): ReturnType<typeof setTimeout> {
    return setTimeout(() => this.#dispatch({ type: 'slow' }), SLOW_MS);
  }

  #render(): void {
    const { phase, effect } = this.#state;
    const { title, text } = noticeOf(this.#state);
    this.#root.dataset.phase = phase.type;
    this.#title.textContent = title;
    this.#text.textContent = text;
    this.#retryButton.hidden = effect?.type !== 'wait';
    if (phase.type === 'connected' || effect === null) this.#frozenPicture()?.remove();
    this.#options.onStateChange(this.#state);
  }

  /** Keeps the last picture, dimmed, until the next one. noVNC removes its own when the connection closes. */
  #freezePicture(): void {
    const live = this.#picture.querySelector('canvas');
    if (live === null || live.width === 0) return;
    const frozen = createElement('canvas', { class: 'live-view-frozen', 'aria-hidden': 'true' });
    frozen.width = live.width;
    frozen.height = live.height;
    frozen.getContext('2d')?.drawImage(live, 0, 0);
    this.#frozenPicture()?.remove();
    this.#picture.before(frozen);
  }

  #frozenPicture(): Element | null {
    return this.#root.querySelector('.live-view-frozen');
  }
}
