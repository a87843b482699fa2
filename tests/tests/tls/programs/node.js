// HTTP over Node.js' https module: TLS in memory, with the OpenSSL inside the executable.
const fs = require('fs');
const https = require('https');

function text(length) {
  const numbers = Array.from({ length: Math.floor(length / 8) + 1 }, (_, number) => number);
  return numbers.map((number) => String(number).padStart(7, '0') + '.').join('').slice(0, length);
}

const number = (path) => Number(path.split('?')[0].split('/').pop());

function serve(address, port, cert, key) {
  const files = { cert: fs.readFileSync(cert), key: fs.readFileSync(key) };
  const server = https.createServer(files, (request, response) => {
    request.resume().on('end', () => {
      response.setHeader('Content-Type', 'text/plain');
      // Without a length, so in chunks.
      response.end(request.method === 'POST' ? 'posted' : text(number(request.url)));
    });
  });
  server.listen(Number(port), address, () => console.log('ready'));
}

async function ask(address, port, version, tag) {
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
  const once = (method, path, body) => new Promise((resolve, reject) => {
    const request = https.request({
      agent, method, host: address, port: Number(port), path: `${path}?${tag}`,
      rejectUnauthorized: false, maxVersion: `TLSv${version}`,
      headers: { 'Content-Type': 'text/plain' },
    }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => resolve(Buffer.concat(parts).toString()));
    });
    request.on('error', reject);
    request.end(body);
  });
  for (const [method, path, body] of [
    ['GET', '/text/10'], ['POST', '/post', text(3000)], ['GET', '/text/100000'], ['GET', '/text/1'],
  ]) {
    const answer = await once(method, path, body);
    if (answer !== (body ? 'posted' : text(number(path)))) throw new Error(`${path}: ${answer}`);
  }
  agent.destroy();
}

const [what, ...rest] = process.argv.slice(2);
({ server: serve, client: ask })[what](...rest);
