// Verifies a Sigstore bundle with sigstore-js, which shares no code with the clients of the cockpit.
//
//   node verify.mjs PACKAGES BUNDLE ROOT IDENTITY ISSUER [ARTIFACT]
//
// PACKAGES is the folder that holds node_modules; BUNDLE and ROOT (trusted root) are JSON files. A bundle of
// a message needs its ARTIFACT; one of an in-toto statement (DSSE) may have it, and must then name its digest.
// Exits 0 when all holds, 1 when something does not, with the reason, and 64 when it is called wrongly.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const USAGE = 64;

const [packages, bundlePath, rootPath, identity, issuer, artifactPath] = process.argv.slice(2);
if (!issuer) {
  console.error('usage: verify.mjs PACKAGES BUNDLE ROOT IDENTITY ISSUER [ARTIFACT]');
  process.exit(USAGE);
}

const require = createRequire(join(packages, 'index.js'));
const { bundleFromJSON } = require('@sigstore/bundle');
const { TrustedRoot } = require('@sigstore/protobuf-specs');
const { toSignedEntity, toTrustMaterial, Verifier } = require('@sigstore/verify');

const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'));

// A policy's identity is taken as a regular expression when it is text: the whole of it, letter by letter.
const exactly = (text) => new RegExp(`^${text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')}$`);

// The library checks who signed a statement, and leaves to its caller what the statement is of.
const checkSubject = (statement, artifact) => {
  const digest = createHash('sha256').update(artifact).digest('hex');
  if (!statement.subject.some((one) => one.digest.sha256 === digest)) {
    throw new Error('the statement is of something else');
  }
};

try {
  const bundle = bundleFromJSON(readJson(bundlePath));
  const artifact = artifactPath ? readFileSync(artifactPath) : undefined;
  const envelope = bundle.content.dsseEnvelope;
  if (!artifact && !envelope) throw new Error('what was signed is neither given nor held');
  const trust = toTrustMaterial(TrustedRoot.fromJSON(readJson(rootPath)));
  const verifier = new Verifier(trust, { tlogThreshold: 1, ctlogThreshold: 1, timestampThreshold: 1 });
  verifier.verify(toSignedEntity(bundle, artifact), {
    subjectAlternativeName: exactly(identity),
    extensions: { issuer },
  });
  if (artifact && envelope) checkSubject(JSON.parse(envelope.payload.toString('utf8')), artifact);
  console.log('verified');
} catch (error) {
  console.error(`${error.code ?? error.name}: ${error.message}`);
  process.exit(1);
}
