import { defineConfig } from 'vitest/config';

export default defineConfig({
  build: {
    // noVNC awaits at the top level of a module.
    target: 'es2022',
    // Everything is a file under /assets: the Content-Security-Policy allows little else.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // noVNC is under the MPL: the notice goes along with the code.
    license: { fileName: 'assets/licenses.md' },
    // One script for the dashboard: 626 kB, 191 on the way, kept by browsers until the next version.
    chunkSizeWarningLimit: 700,
    rolldownOptions: {
      input: { dashboard: 'index.html', view: 'view.html' },
      // "use client" is for servers that render.
      onwarn: (warning, warn) => warning.code === 'MODULE_LEVEL_DIRECTIVE' || warn(warning),
    },
  },
  test: { include: ['src/**/*.test.ts'] },
});
