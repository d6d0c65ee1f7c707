/** The page `/view/{namespace}/{name}`: a live view with a bar above it, or with `?embed=1` alone. */

import { controlOffer, label } from '#features/live-view/status-text.ts';
import { LiveView } from '#features/live-view/widget.ts';
import { element } from '#shared/dom.ts';
import { parseAddress } from './view-url.ts';

const bar = byId('chrome', HTMLElement);
const main = byId('picture', HTMLElement);
const session = byId('session', HTMLElement);
const state = byId('state', HTMLElement);
const hint = byId('hint', HTMLElement);
const control = byId('control', HTMLButtonElement);
const fullScreen = byId('full-screen', HTMLButtonElement);

const { namespace, name, token, wanted, embedded } = parseAddress(new URL(location.href));

document.title = `${name} – live view`;
session.replaceChildren(element('small', {}, `${namespace} / `), name);
bar.hidden = embedded;

const view = new LiveView(main, {
  url: new URL(`/vnc/${namespace}/${name}`, location.href),
  token,
  wanted,
  name: `session ${name} in ${namespace}`,
  onState: (now) => {
    state.textContent = label(now);
    state.dataset.state = now.shown.is;
    const offer = controlOffer(now);
    control.textContent = offer.name;
    control.value = offer.role;
    // Not `disabled`: it must keep the focus, and be found by those who ask why.
    control.setAttribute('aria-disabled', String(offer.whyNot !== null));
    if (now.shown.is !== 'connected') hint.replaceChildren();
    else if (offer.whyNot !== null) hint.replaceChildren(offer.whyNot);
    else if (now.shown.granted === 'control')
      hint.replaceChildren(element('kbd', {}, 'Ctrl+Alt+Home'), ' leaves the picture');
    else hint.replaceChildren();
    control.title = offer.whyNot ?? '';
  },
  onLeave: () => control.focus(), // hidden in an embedded view: then the focus is only taken off the picture
});

control.addEventListener('click', () => {
  if (control.getAttribute('aria-disabled') === 'true') return;
  view.ask(control.value === 'control' ? 'control' : 'view');
});

fullScreen.hidden = !document.fullscreenEnabled;
fullScreen.addEventListener('click', () => {
  const change =
    document.fullscreenElement === null ? document.documentElement.requestFullscreen() : document.exitFullscreen();
  change.catch(() => undefined); // the browser does not want to: the picture stays as it is
});
document.addEventListener('fullscreenchange', () => {
  fullScreen.textContent = document.fullscreenElement === null ? 'Full screen' : 'Leave full screen';
});

// A new link to the same session differs in the fragment only, for which the browser does not load the page anew.
window.addEventListener('hashchange', () => location.reload());

function byId<Kind extends HTMLElement>(id: string, kind: new () => Kind): Kind {
  const found = document.getElementById(id);
  if (found instanceof kind) return found;
  throw new Error(`view.html has no ${kind.name} with the id ${id}`);
}
