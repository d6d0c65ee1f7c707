import { defineConfig } from 'vitest/config';

export default defineConfig({
  build: {
    // noVNC uses top-level await.
    target: 'es2022',
    // Every asset is a file, because the Content-Security-Policy forbids most inline content.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // noVNC has the MPL, which requires its notice beside the code.
    license: { fileName: 'assets/licenses.md' },
    // The dashboard is one script of 626 kB (191 kB compressed), which browsers cache until the next version.
    chunkSizeWarningLimit: 700,
    rolldownOptions: {
      input: { dashboard: 'index.html', view: 'view.html' },
      // "use client" matters only to server rendering.
      onwarn: (warning, warn) => warning.code === 'MODULE_LEVEL_DIRECTIVE' || warn(warning),
    },
  },
  test: { include: ['src/**/*.test.ts'] },
});
