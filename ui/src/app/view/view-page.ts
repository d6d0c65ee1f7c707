/**
 * The entry of `/view/{namespace}/{name}`: a live view with a toolbar, or without it when the page is embedded
 * (`?embed=1`).
 */

import { controlButtonOf, phaseLabel } from '#features/live-view/status-text.ts';
import { LiveViewWidget } from '#features/live-view/widget.ts';
import { createElement } from '#shared/dom.ts';
import { parseViewUrl } from './view-url.ts';

const toolbar = byId('toolbar', HTMLElement);
const picture = byId('picture', HTMLElement);
const session = byId('session', HTMLElement);
const phase = byId('phase', HTMLElement);
const hint = byId('hint', HTMLElement);
const controlButton = byId('control', HTMLButtonElement);
const fullScreenButton = byId('full-screen', HTMLButtonElement);

const { namespace, name, token, scope, embedded } = parseViewUrl(new URL(location.href));

document.title = `${name} – live view`;
session.replaceChildren(createElement('small', {}, `${namespace} / `), name);
toolbar.hidden = embedded;

const widget = new LiveViewWidget(picture, {
  url: new URL(`/vnc/${namespace}/${name}`, location.href),
  token,
  scope,
  name: `session ${name} in ${namespace}`,
  onStateChange: (state) => {
    phase.textContent = phaseLabel(state);
    phase.dataset.phase = state.phase.type;
    const button = controlButtonOf(state);
    controlButton.textContent = button.label;
    controlButton.value = button.scope;
    // Not `disabled`, so that the button keeps the focus and the keyboard reaches it, with its reason.
    controlButton.setAttribute('aria-disabled', String(button.disabledReason !== null));
    if (state.phase.type !== 'connected') hint.replaceChildren();
    else if (button.disabledReason !== null) hint.replaceChildren(button.disabledReason);
    else if (state.phase.granted === 'control')
      hint.replaceChildren(createElement('kbd', {}, 'Ctrl+Alt+Home'), ' releases the keyboard');
    else hint.replaceChildren();
    controlButton.title = button.disabledReason ?? '';
  },
  // Has no effect in an embedded page, whose toolbar is hidden. The picture has lost the focus by then.
  onKeyboardRelease: () => controlButton.focus(),
});

controlButton.addEventListener('click', () => {
  if (controlButton.getAttribute('aria-disabled') === 'true') return;
  widget.requestScope(controlButton.value === 'control' ? 'control' : 'view');
});

fullScreenButton.hidden = !document.fullscreenEnabled;
fullScreenButton.addEventListener('click', () => {
  const change =
    document.fullscreenElement === null ? document.documentElement.requestFullscreen() : document.exitFullscreen();
  change.catch(() => undefined); // rejected by the browser; nothing has changed
});
document.addEventListener('fullscreenchange', () => {
  fullScreenButton.textContent = document.fullscreenElement === null ? 'Full screen' : 'Exit full screen';
});

// The browser does not reload a page when only the fragment changes, as in a new link to the same session.
window.addEventListener('hashchange', () => location.reload());

function byId<Kind extends HTMLElement>(id: string, kind: new () => Kind): Kind {
  const found = document.getElementById(id);
  if (found instanceof kind) return found;
  throw new Error(`view.html has no ${kind.name} with the id ${id}`);
}
