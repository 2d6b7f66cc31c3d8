// Gets a Txn-Token with oauth4webapi and prints it.
//
//     node oauth4webapi.mjs ISSUER CERTS CLIENT PURPOSE client_credentials [SUBJECT]
//     node oauth4webapi.mjs ISSUER CERTS CLIENT PURPOSE access_token FILE
//     node oauth4webapi.mjs ISSUER CERTS CLIENT PURPOSE unsigned_json SUBJECT
//
// CERTS is the folder with ca.pem, CLIENT.pem and CLIENT.key. Exit code 1: refused.

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import * as oauth from 'oauth4webapi'
import * as undici from 'undici'

const TRUST_DOMAIN = 'trust-domain.example' // yours
const TYPE = 'urn:ietf:params:oauth:token-type:'
const [issuer, certs, clientId, purpose, source, input] = process.argv.slice(2)

const client = { client_id: clientId }
const dispatcher = new undici.Agent({
  connect: {
    ca: readFileSync(`${certs}/ca.pem`),
    cert: readFileSync(`${certs}/${clientId}.pem`),
    key: readFileSync(`${certs}/${clientId}.key`),
  },
})
const overTls = {
  [oauth.customFetch]: (url, options) => undici.fetch(url, { ...options, dispatcher }),
}

// Names are in lower case, as oauth4webapi compares them.
const txnTokens = {
  recognizedTokenTypes: {
    n_a: (_response, answer) => {
      if (answer.issued_token_type !== `${TYPE}txn_token`) throw new Error('not a Txn-Token')
    },
  },
}

/** What every request for a Txn-Token names. */
const wanted = {
  requested_token_type: `${TYPE}txn_token`,
  audience: TRUST_DOMAIN,
  scope: purpose,
}

/** Finds the endpoints. */
async function discover() {
  const response = await oauth.discoveryRequest(new URL(issuer), { algorithm: 'oauth2', ...overTls })
  return oauth.processDiscoveryResponse(new URL(issuer), response)
}

/** A Txn-Token for the client itself, or for the subject that it names. */
async function byItself(server, subject) {
  const parameters = subject ? { ...wanted, requested_subject: subject } : wanted
  const auth = oauth.TlsClientAuth()
  const response = await oauth.clientCredentialsGrantRequest(server, client, auth, parameters, overTls)
  return oauth.processClientCredentialsResponse(server, client, response, txnTokens)
}

/** Exchanges a subject token of that type for a Txn-Token. */
async function exchange(server, subjectToken, subjectTokenType) {
  const grant = 'urn:ietf:params:oauth:grant-type:token-exchange'
  const parameters = { ...wanted, subject_token: subjectToken, subject_token_type: subjectTokenType }
  const auth = oauth.TlsClientAuth()
  const response = await oauth.genericTokenEndpointRequest(server, client, auth, grant, parameters, overTls)
  return oauth.processGenericTokenEndpointResponse(server, client, response, txnTokens)
}

/** What Writ said instead of a token. */
class Refused extends Error {
  constructor(response, { error, reason, error_description }) {
    super(`${reason} (${response.status} ${error}): ${error_description}`)
    this.reason = reason
    this.mayPass = error === 'temporarily_unavailable'
    this.retryAfter = Number(response.headers.get('retry-after') ?? 1)
  }

  /** The library reads answers from 400 to 499. For any other its error holds the response, unread. */
  static async from(error) {
    if (error instanceof oauth.ResponseBodyError) return new Refused(error.response, error.cause)
    if (error.code === 'OAUTH_RESPONSE_IS_NOT_CONFORM') return new Refused(error.cause, await error.cause.json())
    return error
  }
}

/** Asks again when Writ says that it is worth trying, after the time that it names. */
async function patiently(request, attempts = 3) {
  for (;;) {
    try {
      return await request()
    } catch (thrown) {
      const error = await Refused.from(thrown)
      attempts -= 1
      if (!error.mayPass || attempts === 0) throw error
      console.error(`${error.reason}: asking again in ${error.retryAfter} s`)
      await sleep(error.retryAfter * 1000)
    }
  }
}

try {
  const server = await discover()
  const request = {
    client_credentials: () => byItself(server, input),
    access_token: () => exchange(server, readFileSync(input, 'utf8').trim(), `${TYPE}access_token`),
    unsigned_json: () => exchange(server, JSON.stringify({ sub: input }), `${TYPE}unsigned_json`),
  }[source]
  console.log((await patiently(request)).access_token)
} catch (error) {
  // Never the whole error: it may hold the answer, and so the token.
  console.error(error instanceof Refused ? `refused: ${error.message}` : error.message)
  if (error.cause instanceof Error) console.error(error.cause.message)
  process.exitCode = error instanceof Refused ? 1 : 2
}
