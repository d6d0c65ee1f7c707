/** The text and the control button that a live view shows in each state. Pure. */

import type { ConnectionState, Scope } from './connection.ts';

/** The phase in one or two words. */
export function phaseLabel({ phase }: ConnectionState): string {
  switch (phase.type) {
    case 'connecting':
      return 'Connecting';
    case 'starting':
      return 'Starting';
    case 'connected':
      return phase.granted === 'control' ? 'In control' : 'View only';
    case 'reconnecting':
      return 'Reconnecting';
    case 'ended':
      return 'Ended';
    case 'failed':
      return 'Failed';
  }
}

/** The text over the picture, or in place of it. */
export interface Notice {
  readonly title: string;
  readonly text: string;
}

export function noticeOf({ phase }: ConnectionState): Notice {
  switch (phase.type) {
    case 'connecting':
      return { title: 'Connecting', text: '' };
    case 'starting':
      return {
        title: 'The session is starting',
        text: phase.detail || 'The live view starts when the session is ready.',
      };
    case 'connected':
      return { title: phase.granted === 'control' ? 'You are in control' : 'You are viewing', text: '' };
    case 'reconnecting':
      return {
        title: 'Reconnecting',
        text:
          phase.afterMs === 0 ? phase.reason : `${phase.reason} Next attempt in ${Math.round(phase.afterMs / 1000)} s.`,
      };
    case 'ended':
      return { title: 'The session has ended', text: phase.reason };
    case 'failed':
      return { title: phase.title, text: phase.text };
  }
}

/** The button that requests or gives back control. */
export interface ControlButton {
  /** The scope that the button requests. */
  readonly scope: Scope;
  readonly label: string;
  /** Null when the button is enabled. */
  readonly disabledReason: string | null;
}

export function controlButtonOf({ phase, permitted, requested }: ConnectionState): ControlButton {
  if (phase.type === 'connected' && phase.granted === 'control') {
    return { scope: 'view', label: 'Stop controlling', disabledReason: null };
  }
  const button = { scope: 'control', label: 'Take control' } as const;
  if (phase.type !== 'connected') return { ...button, disabledReason: 'The live view is not connected.' };
  const isDenied = permitted === 'view' || requested === 'control';
  return { ...button, disabledReason: isDenied ? 'Your token permits viewing only.' : null };
}
