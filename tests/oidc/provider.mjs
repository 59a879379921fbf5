// A certified OpenID Connect provider on loopback, for tests. It reads one line of JSON from standard input:
//   accounts  [{login, password, email, name, groups}]
//   clients   client metadata, as in dynamic registration
//   lifetimes {AccessToken, IdToken, …} in seconds
// and prints one line of JSON, {"issuer": …}, once it listens. It ends when its standard input does.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import dns from 'node:dns';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

console.info = console.warn = console.error; // standard output is for the one line

// Every name is this machine, as it is for the browsers of the tests: clients are told of logouts by name.
dns.lookup = (name, options, done = options) => {
  const found = { address: '127.0.0.1', family: 4 };
  setImmediate(() => (options.all ? done(null, [found]) : done(null, found.address, found.family)));
};

const { Provider } = await import('oidc-provider');
const lines = createInterface({ input: process.stdin });
const { accounts, clients, lifetimes } = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
lines.once('close', () => process.exit(0));

const known = new Map(accounts.map((account) => [account.login, account]));
const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' });

const provider = new Provider(issuer, {
  clients,
  ttl: { AccessToken: 3600, IdToken: 3600, RefreshToken: 86400, Grant: 86400, Session: 86400, Interaction: 600, ...lifetimes },
  jwks: {
    keys: [
      { ...privateKey.export({ format: 'jwk' }), use: 'sig', kid: 'rsa' },
      { ...ec.privateKey.export({ format: 'jwk' }), use: 'sig', kid: 'ec' },
    ],
  },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username'], groups: ['groups'] },
  scopes: ['openid', 'offline_access', 'email', 'profile', 'groups'],
  features: {
    devInteractions: { enabled: true },
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    revocation: { enabled: true },
    introspection: { enabled: true },
  },
  pkce: { required: () => true },
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  findAccount(ctx, login) {
    const account = known.get(login);
    return account && {
      accountId: login,
      claims: () => ({
        sub: login,
        email: account.email,
        email_verified: true,
        name: account.name,
        preferred_username: login,
        groups: account.groups,
      }),
    };
  },
  // Logouts are told to clients on loopback, which the provider's own guard would not allow.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
});

// The login page of the provider takes any password; ours must be right.
provider.use(async (ctx, next) => {
  if (ctx.method === 'POST' && ctx.path.startsWith('/interaction/')) {
    const chunks = [];
    for await (const chunk of ctx.req) chunks.push(chunk);
    const body = Buffer.concat(chunks).toString();
    const form = new URLSearchParams(body);
    if (form.get('prompt') === 'login' && known.get(form.get('login'))?.password !== form.get('password')) {
      ctx.status = 401;
      ctx.body = 'wrong login or password';
      return;
    }
    ctx.req.body = Object.fromEntries(form);
  }
  await next();
});

server.on('request', provider.callback());
process.stdout.write(`${JSON.stringify({ issuer })}\n`);
