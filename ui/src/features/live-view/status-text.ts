/** What a person reads and may do in each state. Pure. */

import type { Role, State } from './connection.ts';

/** The state in one or two words. */
export function label({ shown }: State): string {
  switch (shown.is) {
    case 'connecting':
      return 'Connecting';
    case 'starting':
      return 'Starting';
    case 'connected':
      return shown.granted === 'control' ? 'In control' : 'View only';
    case 'reconnecting':
      return 'Reconnecting';
    case 'ended':
      return 'Ended';
    case 'refused':
      return 'Refused';
  }
}

/** What is said over the picture, or in its place. */
export interface Notice {
  readonly title: string;
  readonly text: string;
}

export function notice({ shown }: State): Notice {
  switch (shown.is) {
    case 'connecting':
      return { title: 'Connecting', text: '' };
    case 'starting':
      return { title: 'The session is starting', text: shown.detail || 'Its picture comes as soon as it is ready.' };
    case 'connected':
      return { title: shown.granted === 'control' ? 'You are in control' : 'You are watching', text: '' };
    case 'reconnecting':
      return {
        title: 'Reconnecting',
        text: shown.afterMs === 0 ? shown.why : `${shown.why} Next attempt in ${Math.round(shown.afterMs / 1000)} s.`,
      };
    case 'ended':
      return { title: 'The session is over', text: shown.reason };
    case 'refused':
      return { title: shown.title, text: shown.words };
  }
}

/** The one thing to do about control. `whyNot` is null when it can be done. */
export interface ControlOffer {
  readonly role: Role;
  readonly name: string;
  readonly whyNot: string | null;
}

export function controlOffer({ shown, wanted }: State): ControlOffer {
  if (shown.is === 'connected' && shown.granted === 'control') {
    return { role: 'view', name: 'Stop controlling', whyNot: null };
  }
  const name = 'Take control';
  if (shown.is !== 'connected') return { role: 'control', name, whyNot: 'There is no picture to control.' };
  return { role: 'control', name, whyNot: wanted === 'control' ? 'Your token allows only to watch.' : null };
}
