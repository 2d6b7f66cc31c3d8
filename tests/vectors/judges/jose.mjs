// Judges the vectors with jose, by the rules of ../README.md.
//
//     npm ci && node jose.mjs FOLDER      exit code 1 if a verdict differs

import { readFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import { compactVerify, importJWK } from 'jose'

const ALGORITHMS = ['ES256', 'ES384', 'EdDSA', 'RS256', 'PS256']
const OTHERS = ['RS384', 'RS512', 'PS384', 'PS512'] // fit no published key, but are no nonsense
const FORBIDDEN = ['crit', 'b64', 'zip', 'enc', 'jwk', 'jku', 'x5u', 'x5c', 'epk', 'p2c']
const SCOPE = /^[!#-[\]-~]+( [!#-[\]-~]+)*$/
const [LONGEST, DEEPEST, AHEAD] = [16 * 1024, 16, 30]

class Refused extends Error {}

/** Ends with this word unless `fits`. */
function need(fits, word) {
  if (!fits) throw new Refused(word)
}

/** What `work` gives; whatever goes wrong in it is told by this word. */
async function or(word, work) {
  try {
    return await work()
  } catch {
    throw new Refused(word)
  }
}

function decoded(part) {
  const bytes = Buffer.from(part, 'base64url')
  need(bytes.toString('base64url') === part)
  return bytes
}

/** One JSON object, strictly. */
function read(bytes) {
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  const value = JSON.parse(text)
  need(isObject(value))
  const open = [] // the names of each object that is open here; JSON.parse has checked the grammar
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"(?:\s*:)?|[{}[\]]/g)) {
    if ('{['.includes(token)) {
      need(open.push(new Set()) <= DEEPEST)
    } else if ('}]'.includes(token)) {
      open.pop()
    } else {
      const string = JSON.parse(token.slice(0, token.lastIndexOf('"') + 1))
      need(string.isWellFormed())
      if (token.endsWith(':')) {
        need(!open.at(-1).has(string))
        open.at(-1).add(string)
      }
    }
  }
  return value
}

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)
const isText = (value) => typeof value === 'string' && value !== ''
const isCount = (value) => Number.isSafeInteger(value) && value >= 0

function headerOf(token) {
  need(Buffer.byteLength(token) <= LONGEST && token.split('.').length === 3)
  const [head, payload] = token.split('.').map(decoded)
  const header = read(head)
  for (const name of ['typ', 'kid', 'cty']) need(typeof (header[name] ?? (name in header ? null : '')) === 'string')
  need(header.kid === undefined || /^[^\x00-\x1f\x7f-\x9f]{1,256}$/u.test(header.kid))
  need([...ALGORITHMS, ...OTHERS].includes(header.alg))
  need(!FORBIDDEN.some((name) => name in header) && header.cty?.toLowerCase() !== 'jwt')
  return { header, payload }
}

function claimsOf(payload) {
  const claims = read(payload)
  const optional = (name, fits) => need(!(name in claims) || fits(claims[name]))
  need(isCount(claims.iat) && isCount(claims.exp) && claims.exp > claims.iat)
  optional('nbf', isCount)
  need(isText(claims.txn) && isText(claims.sub) && isText(claims.req_wl))
  optional('iss', (iss) => typeof iss === 'string')
  need(typeof claims.scope === 'string' && SCOPE.test(claims.scope))
  const aud = claims.aud
  need(isText(aud) || (Array.isArray(aud) && aud.length === 1 && isText(aud[0])))
  optional('req_wl_chain', (chain) => Array.isArray(chain) && chain.every((client) => typeof client === 'string'))
  optional('tctx', isObject)
  optional('rctx', isObject)
  if (claims.rctx && 'delayed' in claims.rctx) {
    const delayed = claims.rctx.delayed
    need(isObject(delayed) && isCount(delayed.iat) && isCount(delayed.exp) && isCount(delayed.use))
  }
  return claims
}

async function verify(token, keys, domain, issuer, now) {
  const { header, payload } = await or('token_malformed', () => headerOf(token))
  need(/^(application\/)?txntoken\+jwt$/i.test(header.typ), 'token_type_wrong')
  const jwk = keys.find((key) => key.kid === header.kid)
  need(jwk !== undefined, 'token_key_unknown')
  await or('token_signature_invalid', async () =>
    compactVerify(token, await importJWK(jwk, jwk.alg), { algorithms: [jwk.alg] }),
  )
  const claims = await or('token_claims_invalid', () => claimsOf(payload))
  need([claims.aud].flat()[0] === domain, 'token_audience_mismatch')
  need(issuer === undefined || (claims.iss ?? issuer) === issuer, 'token_issuer_mismatch')
  need(now < claims.exp, 'token_expired')
  need(Math.max(claims.iat, claims.nbf ?? 0) <= now + AHEAD, 'token_not_yet_valid')
  return claims
}

const [folder] = process.argv.slice(2)
const load = (file) => JSON.parse(readFileSync(`${folder}/${file}`, 'utf8'))
const { keys } = load('jwks.json')
const vectors = load('tokens.json')
let differ = 0
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
    differ += 1
    console.log(`${vector.name}: jose says ${verdict}, expected ${vector.expect}`)
  }
}
console.log(`jose: ${vectors.length - differ} of ${vectors.length} vectors as expected`)
process.exitCode = differ > 0 || vectors.length === 0 ? 1 : 0
