// Verifies the vectors with jose, by the rules of ../README.md.
//
//     npm ci && node jose.mjs FOLDER      exit code 1 if a verdict is not as expected

import { readFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import { compactVerify, importJWK } from 'jose'

const ALGORITHMS = ['ES256', 'ES384', 'EdDSA', 'RS256', 'PS256']
const OTHERS = ['RS384', 'RS512', 'PS384', 'PS512'] // valid algorithms that no published key uses
const FORBIDDEN = ['crit', 'b64', 'zip', 'enc', 'jwk', 'jku', 'x5u', 'x5c', 'epk', 'p2c']
const SCOPE = /^[!#-[\]-~]+( [!#-[\]-~]+)*$/
const [LONGEST, DEEPEST, AHEAD] = [16 * 1024, 16, 30]

class Refused extends Error {}

/** Refuses the token with this reason unless the condition is true. */
function ensure(condition, reason) {
  if (!condition) throw new Refused(reason)
}

/** The result of `check`; any exception becomes a refusal with this reason. */
async function refuseWith(reason, check) {
  try {
    return await check()
  } catch {
    throw new Refused(reason)
  }
}

function decode(part) {
  const bytes = Buffer.from(part, 'base64url')
  ensure(bytes.toString('base64url') === part)
  return bytes
}

/** Parses exactly one JSON object without repeated names. */
function parseObject(bytes) {
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  const value = JSON.parse(text)
  ensure(isObject(value))
  const open = [] // the names of each enclosing object; JSON.parse has checked the syntax
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"(?:\s*:)?|[{}[\]]/g)) {
    if ('{['.includes(token)) {
      ensure(open.push(new Set()) <= DEEPEST)
    } else if ('}]'.includes(token)) {
      open.pop()
    } else {
      const string = JSON.parse(token.slice(0, token.lastIndexOf('"') + 1))
      ensure(string.isWellFormed())
      if (token.endsWith(':')) {
        ensure(!open.at(-1).has(string))
        open.at(-1).add(string)
      }
    }
  }
  return value
}

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)
const isText = (value) => typeof value === 'string' && value !== ''
const isCount = (value) => Number.isSafeInteger(value) && value >= 0

function parseHeader(token) {
  ensure(Buffer.byteLength(token) <= LONGEST && token.split('.').length === 3)
  const [head, payload] = token.split('.').map(decode)
  const header = parseObject(head)
  for (const name of ['typ', 'kid', 'cty']) ensure(typeof (header[name] ?? (name in header ? null : '')) === 'string')
  ensure(header.kid === undefined || /^[^\x00-\x1f\x7f-\x9f]{1,256}$/u.test(header.kid))
  ensure([...ALGORITHMS, ...OTHERS].includes(header.alg))
  ensure(!FORBIDDEN.some((name) => name in header) && header.cty?.toLowerCase() !== 'jwt')
  return { header, payload }
}

function parseClaims(payload) {
  const claims = parseObject(payload)
  const ensureIfPresent = (name, isValid) => ensure(!(name in claims) || isValid(claims[name]))
  ensure(isCount(claims.iat) && isCount(claims.exp) && claims.exp > claims.iat)
  ensureIfPresent('nbf', isCount)
  ensure(isText(claims.txn) && isText(claims.sub) && isText(claims.req_wl))
  ensureIfPresent('iss', (iss) => typeof iss === 'string')
  ensure(typeof claims.scope === 'string' && SCOPE.test(claims.scope))
  const aud = claims.aud
  ensure(isText(aud) || (Array.isArray(aud) && aud.length === 1 && isText(aud[0])))
  ensureIfPresent('req_wl_chain', (chain) => Array.isArray(chain) && chain.every((client) => typeof client === 'string'))
  ensureIfPresent('tctx', isObject)
  ensureIfPresent('rctx', isObject)
  if (claims.rctx && 'delayed' in claims.rctx) {
    const delayed = claims.rctx.delayed
    ensure(isObject(delayed) && isCount(delayed.iat) && isCount(delayed.exp) && isCount(delayed.use))
  }
  return claims
}

async function verify(token, keys, domain, issuer, now) {
  const { header, payload } = await refuseWith('token_malformed', () => parseHeader(token))
  ensure(/^(application\/)?txntoken\+jwt$/i.test(header.typ), 'token_type_wrong')
  const jwk = keys.find((key) => key.kid === header.kid)
  ensure(jwk !== undefined, 'token_key_unknown')
  await refuseWith('token_signature_invalid', async () =>
    compactVerify(token, await importJWK(jwk, jwk.alg), { algorithms: [jwk.alg] }),
  )
  const claims = await refuseWith('token_claims_invalid', () => parseClaims(payload))
  ensure([claims.aud].flat()[0] === domain, 'token_audience_mismatch')
  ensure(issuer === undefined || (claims.iss ?? issuer) === issuer, 'token_issuer_mismatch')
  ensure(now < claims.exp, 'token_expired')
  ensure(Math.max(claims.iat, claims.nbf ?? 0) <= now + AHEAD, 'token_not_yet_valid')
  return claims
}

const [folder] = process.argv.slice(2)
const load = (file) => JSON.parse(readFileSync(`${folder}/${file}`, 'utf8'))
const { keys } = load('jwks.json')
const vectors = load('tokens.json')
let differences = 0
for (const vector of vectors) {
  let verdict
  try {
    const claims = await verify(vector.token, keys, vector.audience, vector.issuer, vector.now)
    verdict = isDeepStrictEqual(claims, vector.claims) ? 'valid' : 'valid, with other claims'
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    verdict = error.message
  }
  if (verdict !== vector.expect) {
    differences += 1
    console.log(`${vector.name}: jose returned ${verdict}, expected ${vector.expect}`)
  }
}
console.log(`jose: ${vectors.length - differences} of ${vectors.length} vectors as expected`)
process.exitCode = differences > 0 || vectors.length === 0 ? 1 : 0
