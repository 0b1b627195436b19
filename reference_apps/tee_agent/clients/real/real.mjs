// An agent between a node and a model that are real: ganache with an ERC-20 contract, and llama.cpp's server. Usage: node real.mjs TEE_AGENT
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { ContractFactory, JsonRpcProvider, Wallet, parseEther, verifyMessage } from "ethers";
import ganache from "ganache";
import solc from "solc";

const here = dirname(fileURLToPath(import.meta.url));
const payee = "0x86693CbE3f2581DF512635823F46f0d593D96dbA";
const rich = `0x${"07".repeat(32)}`;
const children = [];

/** Starts a program; the first part of its output that fits. */
function start(program, args, pattern) {
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
  children.push(child);
  return new Promise((found, failed) => {
    child.on("exit", () => failed(new Error(`${program} ended`)));
    createInterface(child.stdout).on("line", (line) => {
      const match = line.match(pattern);
      if (match) found(match[0]);
    });
  });
}

async function ask(url, path, body) {
  const response = await fetch(url + path, body && { method: "POST", body: JSON.stringify(body) });
  return [response.status, await response.json()];
}

function compileToken() {
  const input = {
    language: "Solidity",
    sources: { "Token.sol": { content: readFileSync(join(here, "Token.sol"), "utf8") } },
    settings: { evmVersion: "paris", outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } } },
  };
  const { contracts, errors } = JSON.parse(solc.compile(JSON.stringify(input)));
  assert.ok(contracts, JSON.stringify(errors));
  return contracts["Token.sol"].Token;
}

function configuration(node, token, model) {
  return `
tee_name = "real"
operator = "24653eac434488002cc06bbfb7f10fe18991e35f9fe4302dbea6d2353dc0ab1c119fc5009a032aa9fe47f5e149bb8442f71f884ccb516590686d8ff6ab91c613"
[upstream]
url = "${model}/v1/chat/completions"
model = "smollm2"
timeout_s = 300
[transactions]
open = true
[[transactions.chain]]
id = 1337
rpc = ["${node}"]
max_gas_price = "50000000000"
per_transaction = "100000000000000000"
total = "500000000000000000"
[[transactions.chain.destination]]
address = "${payee}"
[[transactions.chain.token]]
address = "${token}"
per_transaction = "50"
total = "60"
to = ["any"]
`;
}

async function pay(url, node, token, about) {
  const sign = (transaction) => ask(url, "/api/v1/sign-transaction", { transaction, rpc_url: node.url });
  const mined = async ([status, answer]) => {
    assert.equal(status, 200, JSON.stringify(answer));
    const receipt = await node.provider.waitForTransaction(answer.transaction_hash, 1, 60_000);
    assert.deepEqual([receipt.status, receipt.from.toLowerCase()], [1, about.tee_public_key]);
    return receipt;
  };
  await mined(await sign({ to: payee, value: 3, data: "0x" }));
  const market = await mined(await sign({ to: payee, value: 4, max_fee_per_gas: 40_000_000_000 }));
  assert.equal(market.type, 2);
  const together = await Promise.all([5, 6, 7].map((value) => sign({ to: payee, value })));
  for (const answer of together) await mined(answer);
  assert.equal(await node.provider.getBalance(payee), 25n);

  const transfer = (value) => ({ to: token.target, data: token.interface.encodeFunctionData("transfer", [payee, value]) });
  const moved = await mined(await sign(transfer(45)));
  assert.equal(moved.to, token.target);
  assert.equal(await token.balanceOf(payee), 45n);
  for (const refused of [transfer(51), transfer(16), { to: token.target, value: 1 }, { to: about.operator_address, value: 1 }]) {
    assert.equal((await sign(refused))[0], 403);
  }
  assert.equal(await node.provider.getTransactionCount(about.tee_public_key), 6);
}

async function prompt(url, about) {
  const request = { system_prompt: "Answer in one word.", messages: [{ role: "user", content: "Say hello." }], max_tokens: 12 };
  const [status, answer] = await ask(url, "/api/v1/prompt", request);
  assert.equal(status, 200, JSON.stringify(answer));
  assert.ok(answer.response.content.length > 0);
  assert.equal(verifyMessage(answer.signed_response, answer.signature).toLowerCase(), about.tee_public_key);
  assert.deepEqual(JSON.parse(answer.signed_response).response, answer.response);
  console.log(`the model said ${JSON.stringify(answer.response.content)}`);
}

async function main() {
  const server = ganache.server({
    chain: { chainId: 1337 },
    logging: { quiet: true },
    wallet: { accounts: [{ secretKey: rich, balance: `0x${parseEther("100").toString(16)}` }] },
  });
  await server.listen(0, "127.0.0.1");
  const node = { url: `http://127.0.0.1:${server.address().port}` };
  node.provider = new JsonRpcProvider(node.url, 1337, { staticNetwork: true, pollingInterval: 100, cacheTimeout: -1 });
  const wallet = new Wallet(rich, node.provider);
  const { abi, evm } = compileToken();
  const token = await new ContractFactory(abi, evm.bytecode.object, wallet).deploy(1_000_000n);
  await token.waitForDeployment();

  const model = await start(join(here, ".venv/bin/python"), [join(here, "model.py")], /http:\S+/);
  const config = join(mkdtempSync(join(tmpdir(), "agent-")), "config.toml");
  writeFileSync(config, configuration(node.url, token.target, model));
  const url = await start(process.argv[2], ["--listen", "127.0.0.1:0", "--config", config], /http:\/\/127\S+/);
  const [, about] = await ask(url, "/api/v1/config");
  await (await wallet.sendTransaction({ to: about.tee_public_key, value: parseEther("1") })).wait();
  await (await token.transfer(about.tee_public_key, 1000n)).wait();

  await pay(url, node, token, about);
  await prompt(url, about);
  const [, { logs }] = await ask(url, "/tee/logs", { query: { type: "Action:SIGN_TRANSACTION" } });
  assert.equal(logs.total, 6);
  console.log("ganache, ERC-20 and llama.cpp: all as specified");
}

try {
  await main();
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
children.forEach((child) => child.kill());
process.exit();
