// The web site that the judges visit: a page for each of twelve browser features, and a few that judges crawl. Serves
// http and, with a certificate of its own, https on the same port. Requires openssl.
//   node site.mjs <host> <port>
// Prints its URL when it listens. Port 0 is a free port.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';

const [host, port] = process.argv.slice(2);
if (!host || !port) {
  console.error('usage: node site.mjs <host> <port>');
  process.exit(2);
}

/** Rows of /large. */
const ROWS = 5000;
/** Items that /list/1 to /list/5 link to. */
const ITEMS = 20;
/** Bytes of /downloads/large.bin. */
const LARGE_DOWNLOAD = 1 << 20;

const html = (title, body, script = '') =>
  `<!doctype html><meta charset="utf-8"><title>${title}</title><h1>${title}</h1>${body}<script>${script}</script>`;
const escaped = (text) => text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

// Script for pages with a list of messages.
const LOG = `const log = (text) => {
  const item = document.createElement('li');
  item.textContent = text;
  document.querySelector('#messages').append(item);
};`;

const PAGES = {
  '/': () => {
    const fixtures = Object.keys(PAGES).filter((path) => /^\/[a-z]+\/?$/.test(path));
    return html('Fixtures', `<ul>${fixtures.map((path) => `<li><a href="${path}">${path}</a>`).join('')}</ul>`);
  },

  '/iframes': () =>
    html(
      'Iframes',
      `<ul id="messages"></ul>
      <iframe name="first" src="/iframes/child?first"></iframe>
      <iframe name="second" src="/iframes/child?second"></iframe>
      <iframe name="inline" srcdoc="<p>inline document</p>"></iframe>`,
      `${LOG} addEventListener('message', ({ data }) => log(data));`,
    ),
  '/iframes/child': ({ search }) => {
    const name = escaped(search);
    return html(
      `Child ${name}`,
      `<button>count</button> <output>0</output>
      ${name === 'first' ? '<iframe name="nested" src="/iframes/nested"></iframe>' : ''}`,
      `document.querySelector('button').onclick = () => {
        const count = Number(document.querySelector('output').value) + 1;
        document.querySelector('output').value = count;
        parent.postMessage('${name} counted ' + count);
      };`,
    );
  },
  '/iframes/nested': () =>
    html(
      'Nested',
      '<input aria-label="deep"> <output></output>',
      `document.querySelector('input').oninput = ({ target }) => {
        document.querySelector('output').value = target.value.toUpperCase();
      };`,
    ),

  '/downloads': () =>
    html(
      'Downloads',
      `<a id="report" href="/downloads/report.csv">report</a>
      <a id="large" href="/downloads/large.bin">large</a>
      <a id="renamed" href="/downloads/report.csv?inline" download="renamed.csv">renamed</a>
      <a id="blob" download="blob.txt">blob</a>`,
      `const blob = new Blob(['made in the page'], { type: 'text/plain' });
      document.querySelector('#blob').href = URL.createObjectURL(blob);`,
    ),

  '/popup': () =>
    html(
      'Popup',
      `<button id="open">open</button> <button id="named">named</button> <button id="close">close</button>
      <a id="blank" href="/popup/child" target="_blank">blank</a>
      <ul id="messages"></ul>`,
      `${LOG}
      let popup;
      document.querySelector('#open').onclick = () => {
        popup = open('/popup/child', '_blank', 'width=400,height=300');
      };
      // A click in the popup would fail if the popup closed before Playwright had finished the click.
      document.querySelector('#close').onclick = () => popup.postMessage('close');
      document.querySelector('#named').onclick = () => open('/popup/child', 'named');
      addEventListener('message', ({ data }) => log(data));`,
    ),
  '/popup/child': () =>
    html(
      'Popup child',
      '<button id="answer">answer</button> <output></output>',
      `document.querySelector('output').value = opener ? 'has an opener' : 'has no opener';
      document.querySelector('#answer').onclick = () => opener.postMessage('answer of the popup');
      addEventListener('message', () => close());`,
    ),

  '/basic': ({ request, response }) => {
    const [scheme, credentials = ''] = (request.headers.authorization ?? '').split(' ');
    const [user, password] = Buffer.from(credentials, 'base64').toString().split(':');
    if (scheme === 'Basic' && password === `${user}-secret`) return html('Basic', `<p>signed in as ${escaped(user)}</p>`);
    response.statusCode = 401;
    response.setHeader('WWW-Authenticate', 'Basic realm="judges"');
    return html('Unauthorized', '');
  },

  '/worker/': () =>
    html(
      'Service worker',
      '<output id="state">not registered</output> <button>fetch</button> <output id="answer"></output>',
      `const show = (id, text) => { document.querySelector(id).value = text; };
      document.querySelector('button').onclick = async () => {
        show('#answer', await (await fetch('/worker/data')).text());
      };
      if (!navigator.serviceWorker) {
        show('#state', 'unsupported');
      } else {
        navigator.serviceWorker.oncontrollerchange = () => show('#state', 'controlled');
        navigator.serviceWorker.register('/worker/script.js').catch((error) => show('#state', 'failed: ' + error));
        if (navigator.serviceWorker.controller) show('#state', 'controlled');
      }`,
    ),

  '/socket': () =>
    html(
      'WebSocket',
      `<output>connecting</output> <input aria-label="text"> <button>send</button> <ul id="messages"></ul>`,
      `${LOG}
      const show = (text) => { document.querySelector('output').value = text; };
      const socket = new WebSocket(location.origin.replace(/^http/, 'ws') + '/socket/echo');
      socket.onopen = () => show('open');
      socket.onmessage = ({ data }) => log(data);
      socket.onclose = ({ code, reason }) => show('closed ' + code + ' ' + reason);
      document.querySelector('button').onclick = () => socket.send(document.querySelector('input').value);`,
    ),

  '/shadow': () =>
    html(
      'Shadow DOM',
      '<x-card><span slot="title">slotted title</span></x-card> <x-sealed></x-sealed>',
      `customElements.define('x-counter', class extends HTMLElement {
        connectedCallback() {
          const root = this.attachShadow({ mode: 'open' });
          root.innerHTML = '<button>add</button> <output>0</output>';
          root.querySelector('button').onclick = () => root.querySelector('output').value++;
        }
      });
      customElements.define('x-card', class extends HTMLElement {
        connectedCallback() {
          this.attachShadow({ mode: 'open' }).innerHTML =
            '<h2><slot name="title"></slot></h2><x-counter></x-counter><x-counter></x-counter>';
        }
      });
      customElements.define('x-sealed', class extends HTMLElement {
        connectedCallback() {
          this.attachShadow({ mode: 'closed' }).innerHTML = '<p>sealed text</p>';
        }
      });`,
    ),

  '/upload': ({ request, body }) => {
    if (request.method !== 'POST') {
      return html(
        'Upload',
        `<form method="post" enctype="multipart/form-data">
          <input type="file" name="files" multiple> <input name="note" aria-label="note"> <button>send</button>
        </form>`,
      );
    }
    const items = parts(request.headers['content-type'], body).map(({ name, filename, content }) =>
      filename === undefined
        ? `<li>${escaped(name)} = ${escaped(content.toString())}`
        : `<li>${escaped(filename)}: ${content.length} bytes, ${sha256(content).slice(0, 16)}`,
    );
    return html('Uploaded', `<ul>${items.join('')}</ul>`);
  },

  '/redirect': () =>
    html(
      'Redirect',
      `<a href="/redirect/3">three</a> <a href="/redirect/loop">loop</a> <a href="/redirect/meta">meta</a>
      <a href="/redirect/script">script</a> <form method="post" action="/redirect/post"><button>post</button></form>`,
    ),
  '/redirect/0': ({ request }) => html('Arrived', `<p>by ${request.method}</p>`),
  '/redirect/meta': () => html('Moving', '<meta http-equiv="refresh" content="0; url=/redirect/0">'),
  '/redirect/script': () => html('Moving', '', `location.replace('/redirect/0');`),

  '/large': () => {
    const row = (index) => `<tr id="row-${index}"><td>${index}</td><td>item ${index}</td><td>${index % 7}</td></tr>`;
    const rows = Array.from({ length: ROWS }, (_, index) => row(index));
    return html(
      'Large DOM',
      `<button>append</button><table><tbody>${rows.join('')}</tbody></table>`,
      `document.querySelector('button').onclick = () => {
        const body = document.querySelector('tbody');
        for (let index = 0; index < 1000; index++) {
          const row = body.insertRow();
          row.id = 'row-' + (body.rows.length - 1);
          row.insertCell().textContent = body.rows.length - 1;
        }
      };`,
    );
  },

  '/slow': () =>
    html(
      'Slow',
      '<button>load</button> <output>idle</output>',
      `document.querySelector('button').onclick = async () => {
        document.querySelector('output').value = 'loading';
        document.querySelector('output').value = await (await fetch('/slow/400')).text();
      };`,
    ),

  '/dialog': () =>
    html(
      'Dialog',
      `<button id="alert">alert</button> <button id="confirm">confirm</button> <button id="prompt">prompt</button>
      <output>none</output>`,
      `const show = (text) => { document.querySelector('output').value = text; };
      document.querySelector('#alert').onclick = () => { alert('an alert'); show('alerted'); };
      document.querySelector('#confirm').onclick = () => show('confirmed: ' + confirm('a question'));
      document.querySelector('#prompt').onclick = () => show('prompted: ' + prompt('a prompt', 'a default'));`,
    ),
};

/** Responses that are not pages. `match`: the groups of the route's expression. */
const ROUTES = [
  [/^\/downloads\/report\.csv$/, ({ search, response }) => {
    response.setHeader('Content-Type', 'text/csv');
    if (search !== 'inline') response.setHeader('Content-Disposition', 'attachment; filename="report.csv"');
    return 'name,count\nfirst,1\nsecond,2\n';
  }],
  [/^\/downloads\/large\.bin$/, ({ response }) => {
    response.setHeader('Content-Type', 'application/octet-stream');
    response.setHeader('Content-Disposition', 'attachment; filename="large.bin"');
    return Buffer.from(Uint8Array.from({ length: LARGE_DOWNLOAD }, (_, index) => index % 251));
  }],
  [/^\/worker\/script\.js$/, ({ response }) => {
    response.setHeader('Content-Type', 'text/javascript');
    return `addEventListener('install', () => skipWaiting());
      addEventListener('activate', (event) => event.waitUntil(clients.claim()));
      addEventListener('fetch', (event) => {
        if (event.request.url.endsWith('/data')) event.respondWith(new Response('from the service worker'));
      });`;
  }],
  [/^\/worker\/data$/, () => 'from the network'],
  [/^\/redirect\/([1-9])$/, ({ response, match }) => redirect(response, 302, `/redirect/${match[1] - 1}`)],
  [/^\/redirect\/loop$/, ({ response }) => redirect(response, 302, '/redirect/loop')],
  [/^\/redirect\/post$/, ({ response }) => redirect(response, 303, '/redirect/0')],
  [/^\/slow\/(\d+)$/, async ({ match }) => {
    await new Promise((resolve) => setTimeout(resolve, Number(match[1])));
    return html(`After ${match[1]} ms`, '');
  }],
  // Three parts, 100 ms apart.
  [/^\/slow\/parts$/, async ({ response }) => {
    response.setHeader('Content-Type', 'text/html');
    response.write('<!doctype html><title>Parts</title>');
    for (const part of [1, 2, 3]) {
      response.write(`<p>part ${part}</p>`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return '';
  }],
  // The response ends only when the client aborts.
  [/^\/slow\/never$/, () => new Promise(() => {})],
  [/^\/list\/([1-5])$/, ({ match }) => {
    const first = (match[1] - 1) * 4 + 1;
    const items = [0, 1, 2, 3].map((offset) => `<li><a class="item" href="/item/${first + offset}">${first + offset}</a>`);
    const next = match[1] < 5 ? `<a id="next" href="/list/${Number(match[1]) + 1}">next</a>` : '';
    return html(`List ${match[1]}`, `<ul>${items.join('')}</ul>${next}`);
  }],
  [/^\/item\/(\d+)$/, ({ response, match }) => {
    if (match[1] < 1 || match[1] > ITEMS) response.statusCode = 404;
    return html(`Item ${match[1]}`, '<p id="price"></p>', `document.querySelector('#price').textContent = ${match[1]} * 3;`);
  }],
  [/^\/echo$/, ({ request, response, body }) => {
    response.setHeader('Content-Type', 'application/json');
    return JSON.stringify({ method: request.method, headers: request.headers, body: body.toString() });
  }],
  [/^\/cookie$/, ({ search, response }) => {
    response.setHeader('Set-Cookie', `${search}; Path=/`);
    return html('Cookie', '', '');
  }],
];

function redirect(response, status, location) {
  response.statusCode = status;
  response.setHeader('Location', location);
  return '';
}

/** The parts of a multipart/form-data body. */
function parts(contentType, body) {
  const boundary = `--${/boundary=(.*)$/.exec(contentType)[1].replace(/"/g, '')}`;
  // latin1 keeps each byte as one character.
  return body.toString('latin1').split(boundary).slice(1, -1).map((part) => {
    const end = part.indexOf('\r\n\r\n');
    const head = Buffer.from(part.slice(0, end), 'latin1').toString();
    return {
      name: /[ ;]name="([^"]*)"/.exec(head)[1],
      filename: /filename="([^"]*)"/.exec(head)?.[1],
      content: Buffer.from(part.slice(end + 4, -2), 'latin1'),
    };
  });
}

async function respond(request, response) {
  const { pathname, search } = new URL(request.url, 'http://site');
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const exchange = { request, response, search: search.slice(1), body: Buffer.concat(chunks) };
  // A cached page would hide what a client changed.
  response.setHeader('Cache-Control', 'no-store');
  response.setHeader('Content-Type', 'text/html; charset=utf-8');
  if (PAGES[pathname]) return response.end(PAGES[pathname](exchange));
  for (const [expression, answer] of ROUTES) {
    const match = expression.exec(pathname);
    if (match) return response.end(await answer({ ...exchange, match }));
  }
  response.statusCode = 404;
  response.end(html('Not found', ''));
}

/**
 * Accepts a WebSocket (RFC 6455), greets, and echoes text. `burst N` is answered with N numbered messages, and `close`
 * with a Close frame with the code 4001. Messages of a client must be shorter than 126 bytes.
 */
function acceptWebSocket(request, socket) {
  const accept = createHash('sha1').update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      `Sec-WebSocket-Accept: ${accept.digest('base64')}\r\n\r\n`,
  );
  const send = (opcode, payload) => socket.write(Buffer.concat([Buffer.from([0x80 | opcode, payload.length]), payload]));
  const sendText = (text) => send(1, Buffer.from(text));
  const close = (code, reason) => send(8, Buffer.concat([Buffer.from([code >> 8, code & 0xff]), Buffer.from(reason)]));
  let received = Buffer.alloc(0);
  sendText('welcome');
  socket.on('error', () => {});
  socket.on('data', (chunk) => {
    received = Buffer.concat([received, chunk]);
    // A client's frame has a head of 2 bytes, a mask of 4 bytes and the masked payload.
    while (received.length >= 6 && received.length >= 6 + (received[1] & 0x7f)) {
      const length = received[1] & 0x7f;
      const opcode = received[0] & 0x0f;
      const mask = received.subarray(2, 6);
      const payload = received.subarray(6, 6 + length).map((byte, index) => byte ^ mask[index % 4]);
      received = received.subarray(6 + length);
      const text = Buffer.from(payload).toString();
      if (opcode === 8) {
        socket.end();
      } else if (opcode === 9) {
        send(10, payload);
      } else if (opcode !== 1) {
        continue;
      } else if (text === 'close') {
        close(4001, 'requested');
      } else if (text.startsWith('burst ')) {
        for (let index = 1; index <= Number(text.slice(6)); index++) sendText(`message ${index}`);
      } else {
        sendText(`echo ${text}`);
      }
    }
  });
}

const pem = execFileSync(
  'openssl',
  ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30'].concat(
    ['-subj', '/CN=judges', '-addext', `subjectAltName=${net.isIP(host) ? 'IP' : 'DNS'}:${host}`],
    ['-keyout', '-', '-out', '-'],
  ),
  { stdio: ['ignore', 'pipe', 'ignore'] },
);
const handle = (request, response) =>
  respond(request, response).catch((error) => {
    console.error(`failed to serve ${request.url}: ${error.stack}`);
    response.destroy();
  });
const plain = http.createServer(handle).on('upgrade', acceptWebSocket);
const secure = https.createServer({ key: pem, cert: pem }, handle).on('upgrade', acceptWebSocket);

const listener = net.createServer((socket) => {
  socket.on('error', () => {});
  socket.once('readable', () => {
    const chunk = socket.read();
    if (!chunk) return;
    socket.unshift(chunk);
    // A TLS connection starts with a handshake record (RFC 8446, section 5.1), whose type is 22.
    (chunk[0] === 22 ? secure : plain).emit('connection', socket);
  });
});
listener.listen(Number(port), host, () => console.log(`http://${host}:${listener.address().port}`));
