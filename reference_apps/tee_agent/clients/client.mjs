// What a client of tee_agent signs and seals, from the README's description alone.
import { createCipheriv, createECDH, createHash, hkdfSync } from "node:crypto";

/** The text that an operator signs, from the README alone. */
export function updateMessage(teeName, address, number, items) {
  const lines = ["tee_agent operator variables v2", `agent ${teeName}`, `key ${address}`, `number ${number}`];
  for (const item of items) {
    const signed = item.sealed ? Buffer.from(item.sealed, "base64") : Buffer.from(item.value, "utf8");
    const digest = `${item.sealed ? "sealed" : "value"} ${createHash("sha256").update(signed).digest("hex")}`;
    const flags = `${item.public ? "public" : "hidden"} ${item.immutable ? "immutable" : "mutable"}`;
    lines.push(`set ${item.name} ${flags} ${digest}`);
  }
  return lines.join("\n");
}

/** Seals a value for the agent with this public key (65 bytes). */
export function seal(recipient, name, value, privateKey) {
  const ephemeral = createECDH("secp256k1");
  if (privateKey) ephemeral.setPrivateKey(privateKey);
  else ephemeral.generateKeys();
  const info = Buffer.concat([Buffer.from("tee_agent sealed v1"), ephemeral.getPublicKey(), recipient]);
  const key = hkdfSync("sha256", ephemeral.computeSecret(recipient), Buffer.alloc(0), info, 32);
  const cipher = createCipheriv("aes-256-gcm", Buffer.from(key), Buffer.alloc(12)).setAAD(Buffer.from(name));
  const sealed = Buffer.concat([cipher.update(value, "utf8"), cipher.final(), cipher.getAuthTag()]);
  return Buffer.concat([ephemeral.getPublicKey(), sealed]).toString("base64");
}

/** Status and JSON of an answer. */
export async function ask(url, path, body) {
  const request = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(url + path, request);
  return [response.status, await response.json()];
}
