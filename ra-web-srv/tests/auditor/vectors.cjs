// The auditor's verifier against the specification's vectors. Prints one line and ends with 0, or says what differs.
"use strict";
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const assert = require("node:assert/strict");

const page = readFileSync(join(__dirname, "../../assets/auditor.html"), "utf8");
const source = /<script id="verifier">([^]*?)<\/script>/.exec(page)[1];
const exported = {};
new Function("module", source)(exported);
const Glasshouse = exported.exports;

const vectors = (name) => JSON.parse(readFileSync(join(__dirname, "../../../docs/spec/vectors", name), "utf8"));
const bundleOf = (document) => ({
  document, nonce: new Uint8Array(8), batch: null, tlsKey: null, manifest: null, baseline: null, proofs: [], consistency: [], transcript: null,
});

async function documents() {
  const { cases } = vectors("attestation/documents.json");
  for (const { name, document, root, at, refused_at } of cases) {
    const verdict = await Glasshouse.verify(bundleOf(Glasshouse.unbase64(document)), { roots: root, at: Date.parse(at), anyImage: true });
    const found = verdict.claims ? undefined : verdict.refusals[0].step;
    assert.equal(found, refused_at, `${name}: ${JSON.stringify(verdict.refusals)}`);
    assert.equal(verdict.simulated, true, name);
  }
  return cases.length;
}

async function bundles() {
  const { root, at, base, cases } = vectors("attestation/bundles.json");
  for (const { name, set, asked, refused_at } of cases) {
    const bundle = { ...base, ...set };
    for (const member of Object.keys(bundle)) if (bundle[member] === null) delete bundle[member];
    const question = { roots: asked.root === "aws" ? null : root, at: Date.parse(asked.at ?? at), nonce: asked.nonce ?? null, pcrs: asked.pcrs,
      neverEntered: asked.never_entered, sealed: asked.sealed, files: asked.files, policy: asked.policy ? Glasshouse.decodePolicy(asked.policy) : null };
    const verdict = await Glasshouse.verify(Glasshouse.decodeBundle(JSON.stringify(bundle)), question);
    assert.equal(verdict.verified, refused_at === undefined, `${name}: ${JSON.stringify(verdict.refusals)}`);
    if (refused_at !== undefined) assert.ok(verdict.refusals.some(({ step }) => step === refused_at), `${name}: ${JSON.stringify(verdict.refusals)}`);
    assert.equal(verdict.proven.length > 0, verdict.verified, name);
  }
  return cases.length;
}

function forms() {
  const { valid, refused } = vectors("bundle.json");
  for (const { name, bundle } of valid) assert.ok(Glasshouse.decodeBundle(JSON.stringify(bundle)), name);
  for (const { name, text } of refused) assert.throws(() => Glasshouse.decodeBundle(text), undefined, name);
}

async function randomness() {
  const cases = vectors("ecvrf.json").valid.filter(({ suite }) => suite === 3);
  for (const { public_key, alpha, proof, output, beta } of cases) {
    const [key, input, pi] = [public_key, alpha, proof].map((text) => Glasshouse.unhex(text));
    assert.equal(Glasshouse.hex(await Glasshouse.vrfVerify(key, input, pi)), output ?? beta);
    for (const place of [0, 31, 40, 50, 79]) {
      const changed = pi.slice();
      changed[place] ^= 1;
      await assert.rejects(Glasshouse.vrfVerify(key, input, changed));
    }
    await assert.rejects(Glasshouse.vrfVerify(key, Uint8Array.of(...input, 0), pi));
  }
  return cases.length;
}

async function batches() {
  const { valid, refused } = vectors("nonce-batch.json");
  let count = 0;
  for (const { name, nonces, root, paths } of valid) {
    for (const place of paths) {
      const nonce = Glasshouse.unhex(nonces[place.index]);
      assert.equal(Glasshouse.hex(await Glasshouse.batchRoot(nonce, place)), root, name);
      count++;
    }
  }
  for (const { name, nonce, index, size, path, root } of refused) {
    const found = await Glasshouse.batchRoot(Glasshouse.unhex(nonce), { index, size, path }).then(Glasshouse.hex, () => null);
    assert.ok(found === null || found !== root, name);
  }
  return count;
}

function connections() {
  const { records, refused_records } = vectors("egress.json");
  for (const { name, bytes, record } of records) {
    const shown = Glasshouse.decodeConnection(Glasshouse.unhex(bytes));
    assert.ok(shown.includes(`:${record.port} `) && (!record.name || shown.includes(record.name)), `${name}: ${shown}`);
  }
  for (const { name, bytes } of refused_records) assert.throws(() => Glasshouse.decodeConnection(Glasshouse.unhex(bytes)), undefined, name);
}

async function transcripts() {
  const { empty, entries } = vectors("control-trace.json"), bytes = (text) => Glasshouse.unhex(text);
  const all = entries.map(({ entry }) => bytes(entry)), register = bytes(entries[0].pcr17);
  assert.deepEqual(await Glasshouse.verifyTranscript([], bytes(empty), undefined), { count: 0, sessions: [] });
  for (const [place, { head }] of entries.entries()) {
    const { count, sessions } = await Glasshouse.verifyTranscript(all, bytes(head), register);
    assert.equal(count, place + 1);
    assert.deepEqual(sessions.map(({ operator }) => operator), ["alice"]);
    await assert.rejects(Glasshouse.verifyTranscript(all.slice(0, place), bytes(head), register), /do not lead to it/);
    await assert.rejects(Glasshouse.verifyTranscript(all, bytes(head), new Uint8Array(48)), /nobody has entered/);
    await assert.rejects(Glasshouse.verifyTranscript(all, bytes(head), register.map((byte) => byte ^ 1)), /PCR17 does not hold/);
  }
  await assert.rejects(Glasshouse.verifyTranscript(all.slice(1), bytes(entries[4].head), register), /in the place of 1/);
  return entries.length;
}

// Policies are read, or refused, as by the Rust code.
function policies() {
  const { valid, refused } = vectors("policy/forms.json");
  for (const { name, text, releases, signers } of valid) {
    const policy = Glasshouse.decodePolicy(text);
    assert.deepEqual([policy.releases.length, policy.signers.length], [releases, signers], name);
  }
  for (const { name, text } of refused) assert.throws(() => Glasshouse.decodePolicy(text), undefined, name);
  const example = readFileSync(join(__dirname, "../../../docs/spec/vectors/policy/example.toml"), "utf8");
  assert.equal(Glasshouse.decodePolicy(example).releases.length, 3);
  return valid.length + refused.length;
}

// Rules cover what is narrower, and none that are not.
function rules() {
  const { covered, not_covered, refused } = vectors("policy/rules.json");
  const covers = ([own, other]) => Glasshouse.covers(Glasshouse.decodeRule(own), Glasshouse.decodeRule(other));
  for (const pair of covered) assert.ok(covers(pair), String(pair));
  for (const pair of not_covered) assert.ok(!covers(pair), String(pair));
  for (const rule of refused) assert.throws(() => Glasshouse.decodeRule(rule), undefined, rule);
}

(async () => {
  forms();
  connections();
  rules();
  const counts = [await documents(), await bundles(), await randomness(), await batches(), await transcripts(), policies()];
  assert.ok(counts[0] >= 40 && counts[1] >= 80 && counts[2] >= 3 && counts[3] >= 5 && counts[4] >= 5 && counts[5] >= 40, String(counts));
  console.log(`${counts[0]} documents, ${counts[1]} bundles, ${counts[2]} VRF examples, ${counts[3]} nonce paths, ${counts[4]} transcripts, ${counts[5]} policies`);
})().catch((error) => { console.error(error); process.exit(1); });
