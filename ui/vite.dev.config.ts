/** The dev server: the pages from their sources, and a gateway behind a proxy. */

import type { ClientRequest, IncomingMessage } from 'node:http';
import { defineConfig, mergeConfig, type Plugin, type ProxyOptions } from 'vite';
import buildConfig from './vite.config.ts';

const gateway = gatewayUrl(process.env.CAMOFLEET_URL);

function gatewayUrl(text = ''): URL {
  const url = URL.parse(text);
  if (url !== null && /^https?:$/.test(url.protocol)) return url;
  const problem = text === '' ? 'is not set' : `is "${text}", which is not an http or https URL`;
  throw new Error(
    `CAMOFLEET_URL ${problem}: set it to the URL of a gateway (CAMOFLEET_URL=http://127.0.0.1:8080 npm run dev)`,
  );
}

/** Serves view.html at the path that the live view has at the gateway. */
const viewPage: Plugin = {
  name: 'view-page',
  configureServer: ({ middlewares }) => {
    middlewares.use((request, _response, next) => {
      request.url = request.url?.replace(/^\/view\/[^/?]+\/[^/?]+/, '/view.html');
      next();
    });
  },
};

const proxy: ProxyOptions = {
  target: gateway.origin,
  ws: true,
  // An Ingress routes by Host.
  changeOrigin: true,
  configure: (server) => {
    // The gateway accepts the login cookie only when Origin and Host agree. The Origin of a page that the dev server
    // did not serve stays, so that the gateway rejects it.
    const translateOrigin = (proxyRequest: ClientRequest, { headers }: IncomingMessage) => {
      const { origin, host } = headers;
      if (origin !== undefined && URL.parse(origin)?.host === host) proxyRequest.setHeader('Origin', gateway.origin);
    };
    server.on('proxyReq', translateOrigin);
    server.on('proxyReqWs', translateOrigin);
  },
};

export default mergeConfig(
  buildConfig,
  defineConfig({
    // A path without a page answers 404 instead of the dashboard.
    appType: 'mpa',
    plugins: [viewPage],
    server: { proxy: { '/api/': proxy, '/ws/': proxy, '/vnc/': proxy } },
  }),
);
