// The auditor's verifier against verdicts of another one: judge.cjs FILE, of which each line is a case. Prints one line and ends with 0, or
// says which cases it judges otherwise.
"use strict";
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const page = readFileSync(join(__dirname, "../../assets/auditor.html"), "utf8");
const exported = {};
new Function("module", /<script id="verifier">([^]*?)<\/script>/.exec(page)[1])(exported);
const Glasshouse = exported.exports;

async function isAccepted({ bundle: text, root, at, files }) {
  let bundle;
  try { bundle = Glasshouse.decodeBundle(text); } catch (error) { return [false, error.message]; }
  // Whatever a bundle holds, there is a verdict and no exception.
  const verdict = await Glasshouse.verify(bundle, { roots: root, at: Date.parse(at), anyImage: true, files });
  return [verdict.verified, JSON.stringify(verdict.refusals)];
}

function isWatched({ monitor, path }) {
  try { Glasshouse.watchedBy(monitor, path); return [true, ""]; } catch (error) { return [false, error.message]; }
}

(async () => {
  const cases = readFileSync(process.argv[2], "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const others = [];
  let accepted = 0;
  for (const one of cases) {
    const [found, why] = one.monitor ? isWatched(one) : await isAccepted(one);
    accepted += found;
    if (found !== one.accepted) others.push(`${one.name}: ${found ? "accepted" : `refused (${why})`}, and elsewhere ${one.accepted ? "accepted" : `refused (${one.why})`}`);
  }
  if (others.length) throw new Error(`${others.length} of ${cases.length} cases are judged otherwise:\n${others.slice(0, 40).join("\n")}`);
  console.log(`${cases.length} cases, ${accepted} of them accepted`);
})().catch((error) => { console.error(error.message); process.exit(1); });
