// Uses a running agent as its operator and as a stranger would, and checks all that it signs with ethers.
// The agent has the configuration ../testdata/config.toml but for the addresses of its upstream and its node.
import assert from "node:assert/strict";
import { Transaction, Wallet, verifyMessage } from "ethers";
import { ask, seal, updateMessage } from "./client.mjs";

const url = process.argv[2];
const operator = new Wallet(`0x${"42".repeat(32)}`);
const payee = "0x86693CbE3f2581DF512635823F46f0d593D96dbA";

const [, about] = await ask(url, "/api/v1/config");
const key = Buffer.from(about.public_key.slice(2), "hex");

async function setVariables(items) {
  const [, { operator_number: last }] = await ask(url, "/api/v1/config");
  const message = updateMessage(about.tee_name, about.tee_public_key, last + 1, items);
  return ask(url, "/api/v1/variables", { variables: items, number: last + 1, signature: await operator.signMessage(message) });
}

const sealed = (name, value) => ({ name, sealed: seal(key, name, value) });
const [status] = await setVariables([sealed("openrouter_api_key", "sk-2"), sealed("secret_token", "other tøken")]);
assert.equal(status, 200);

const prompt = { messages: [{ role: "user", content: "héllo 😀" }], system_prompt: "x\ny" };
const [, answer] = await ask(url, "/api/v1/prompt", prompt);
assert.equal(verifyMessage(answer.signed_response, answer.signature).toLowerCase(), about.tee_public_key);
const said = JSON.parse(answer.signed_response);
for (const name of ["model", "response", "messages", "tools", "system_prompt"]) assert.deepEqual(answer[name], said[name]);

const request = { transaction: { to: payee, value: 3, data: "0x" }, secret_token: "other tøken" };
const [, legacy] = await ask(url, "/api/v1/sign-transaction", request);
const first = Transaction.from(legacy.signed_transaction);
assert.deepEqual([first.type, first.from.toLowerCase(), first.value, first.chainId], [0, about.tee_public_key, 3n, 84532n]);
assert.equal(first.hash, legacy.transaction_hash);
Object.assign(request.transaction, { value: "1000000000000001", maxFeePerGas: 1e9, maxPriorityFeePerGas: 7 });
const [, market] = await ask(url, "/api/v1/sign-transaction", request);
const second = Transaction.from(market.signed_transaction);
assert.deepEqual([second.type, second.from.toLowerCase(), second.value], [2, about.tee_public_key, 10n ** 15n + 1n]);
assert.equal(second.hash, market.transaction_hash);
console.log("ethers: all as specified");
