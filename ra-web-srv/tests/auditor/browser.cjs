// The auditor's page in a real browser, headless Chromium over its debugging pipe: from the disk with bundles of the
// specification, from a server that replays, and, given `URL ROOT.pem PCR0`, from a server of an enclave.
"use strict";
const { spawn } = require("node:child_process");
const { mkdtempSync, readFileSync, rmSync } = require("node:fs");
const { createServer } = require("node:http");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const { pathToFileURL } = require("node:url");
const assert = require("node:assert/strict");

const PAGE = join(__dirname, "../../assets/auditor.html");
const vectors = JSON.parse(readFileSync(join(__dirname, "../../../docs/spec/vectors/attestation/bundles.json"), "utf8"));
const LIMIT_MS = 120_000;

class Browser {
  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), "auditor-"));
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--ignore-certificate-errors",
      "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", `--user-data-dir=${this.folder}`];
    this.process = spawn("chromium", flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.waiting = new Map();
    this.next = 1;
    let buffer = "";
    this.process.stdio[4].on("data", (data) => {
      buffer += data;
      const messages = buffer.split("\0");
      buffer = messages.pop();
      for (const message of messages.map((one) => JSON.parse(one))) {
        const { resolve, reject } = this.waiting.get(message.id) ?? {};
        this.waiting.delete(message.id);
        if (message.error) reject?.(new Error(message.error.message)); else resolve?.(message.result);
      }
    });
  }
  send(method, params = {}, sessionId = undefined) {
    const id = this.next++;
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
    this.process.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    return answer;
  }
  async open(url) {
    const { targetId } = await this.send("Target.createTarget", { url });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const run = async (expression) => {
      const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true }, sessionId);
      if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      return result.value;
    };
    // The scripts have run when the page shows its nonce; if the policy refused them, it never does.
    for (const end = Date.now() + LIMIT_MS; ;) {
      const loaded = await run(`location.href !== "about:blank" && document.readyState === "complete" && document.getElementById("drawn")?.textContent.length === 64`).catch(() => false);
      if (loaded) return run;
      assert.ok(Date.now() < end, `${url} does not run`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  async close() {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.send("Browser.close").catch(() => {});
    await ended;
    // Helpers of the browser may still write for a moment; what is left is in the system's temporary folder.
    try { rmSync(this.folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }); } catch { /* as said */ }
  }
}

// Puts `values` into fields and waits until the page has judged again.
function act(run, values, click = null) {
  const set = Object.entries(values).map(([id, value]) => `{
    const field = document.getElementById(${JSON.stringify(id)});
    if (field.type === "checkbox") field.checked = ${JSON.stringify(value)}; else field.value = ${JSON.stringify(value)};
  }`).join("\n");
  const last = Object.keys(values).at(-1);
  const trigger = click ? `document.getElementById(${JSON.stringify(click)}).click()` : `document.getElementById(${JSON.stringify(last)}).dispatchEvent(new Event("change"))`;
  return run(`new Promise((resolve, reject) => {
    const before = document.body.dataset.judged;
    new MutationObserver((_, observer) => {
      if (document.body.dataset.judged === before) return;
      observer.disconnect();
      resolve({ answer: document.getElementById("answer").textContent, text: document.body.innerText });
    }).observe(document.body, { attributes: true });
    ${set}
    ${trigger};
  })`);
}

const image = (pcrs) => Object.entries(pcrs).map((pair) => pair.join("=")).join(" ");

async function fromDisk(browser) {
  const run = await browser.open(pathToFileURL(PAGE).href);
  assert.match(await run("document.body.innerText"), /copy on your disk/);
  const { asked } = vectors.cases[0];
  await act(run, { root: vectors.root, time: vectors.at, reference: image(asked.pcrs) });
  const good = await act(run, { paste: JSON.stringify(vectors.base) });
  assert.equal(good.answer, "VERIFIED (under the root that you gave, not AWS's)", good.text);
  assert.match(good.text, /Not proven: that your connection ends in this enclave/);
  for (const [name, set, values] of [
    ["tampered", { document: tampered(vectors.base.document) }, {}],
    ["another manifest", { manifest: "e30=" }, {}],
    ["under AWS's root", {}, { root: "" }],
    ["another image", {}, { root: vectors.root, reference: `0=${"22".repeat(48)}` }],
  ]) {
    await act(run, { ...values, never: false });
    const bad = await act(run, { paste: JSON.stringify({ ...vectors.base, ...set }) });
    assert.match(bad.answer, /^NOT VERIFIED/, `${name}: ${bad.text}`);
    assert.match(bad.text, /Refused: /, name);
    assert.doesNotMatch(bad.text, /Proven: the enclave/, name);
  }
  await act(run, { reference: "" });
  await act(run, { paste: JSON.stringify(vectors.base) });
  for (const [name, answer] of [["a policy that is met", /^VERIFIED/], ["no release of the policy", /^NOT VERIFIED/]]) {
    const { asked } = vectors.cases.find((one) => one.name === name);
    const judged = await act(run, { paste: asked.policy });
    assert.match(judged.answer, answer, `${name}: ${judged.text}`);
    assert.match(judged.text, /policy: release/, name);
  }
  for (const nothing of ["{}", "version = 1"]) {
    const none = await act(run, { paste: nothing });
    assert.match(none.text, /Neither a bundle/, nothing);
  }
  return 7;
}

function tampered(base64) {
  const bytes = Buffer.from(base64, "base64");
  bytes[bytes.length >> 1] ^= 1;
  return bytes.toString("base64");
}

// A server that answers every nonce with what it recorded once.
async function fromReplay(browser) {
  const server = createServer((request, response) => {
    const isBundle = request.url.startsWith("/v1/bundle");
    response.writeHead(200, { "content-type": isBundle ? "application/json" : "text/html" });
    response.end(isBundle ? JSON.stringify(vectors.base) : readFileSync(PAGE));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const run = await browser.open(`http://127.0.0.1:${server.address().port}/`);
    assert.match(await run("document.body.innerText"), /came from the server that it is to judge/);
    await act(run, { root: vectors.root, time: vectors.at, reference: image(vectors.cases[0].asked.pcrs) });
    const replayed = await act(run, {}, "ask");
    assert.match(replayed.answer, /^NOT VERIFIED/, replayed.text);
    assert.match(replayed.text, /Refused: nonce: expected/);
  } finally { server.close(); server.closeAllConnections(); }
  return 1;
}

async function fromEnclave(browser, url, root, pcr0) {
  const run = await browser.open(url);
  await act(run, { root: readFileSync(root, "utf8"), reference: `0=${pcr0}` });
  const good = await act(run, {}, "ask");
  assert.match(good.answer, /^VERIFIED/, good.text);
  assert.match(good.text, /Proven: the document was made after you drew the nonce/);
  const other = await act(run, { reference: `0=${"22".repeat(48)}` });
  assert.match(other.answer, /^NOT VERIFIED/, other.text);
  return 2;
}

(async () => {
  const browser = new Browser();
  const timer = setTimeout(() => { console.error("the browser does not answer"); browser.process.kill("SIGKILL"); process.exit(1); }, 2 * LIMIT_MS);
  try {
    const [url, root, pcr0] = process.argv.slice(2);
    const counts = url ? [await fromEnclave(browser, url, root, pcr0)] : [await fromDisk(browser), await fromReplay(browser)];
    console.log(`${counts.reduce((sum, count) => sum + count)} verdicts in the browser`);
  } catch (error) { console.error(error); process.exitCode = 1; } finally { await browser.close(); clearTimeout(timer); }
})();
