// Gets a Txn-Token with oauth4webapi and prints it.
//
//     node oauth4webapi.mjs ISSUER CERTS CLIENT PURPOSE client_credentials [SUBJECT]
//     node oauth4webapi.mjs ISSUER CERTS CLIENT PURPOSE access_token FILE
//     node oauth4webapi.mjs ISSUER CERTS CLIENT PURPOSE unsigned_json SUBJECT
//
// CERTS is the folder with ca.pem, CLIENT.pem and CLIENT.key. Exit code 1: Writ refused the request.

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

// The token type is in lower case, as oauth4webapi compares it.
const txnTokens = {
  recognizedTokenTypes: {
    n_a: (_response, answer) => {
      if (answer.issued_token_type !== `${TYPE}txn_token`) throw new Error('not a Txn-Token')
    },
  },
}

/** The parameters of every request for a Txn-Token. */
const wanted = {
  requested_token_type: `${TYPE}txn_token`,
  audience: TRUST_DOMAIN,
  scope: purpose,
}

/** Fetches the metadata of the service (RFC 8414). */
async function discover() {
  const response = await oauth.discoveryRequest(new URL(issuer), { algorithm: 'oauth2', ...overTls })
  return oauth.processDiscoveryResponse(new URL(issuer), response)
}

/** Requests a Txn-Token for the client itself, or for the given subject. */
async function requestByItself(server, subject) {
  const parameters = subject ? { ...wanted, requested_subject: subject } : wanted
  const auth = oauth.TlsClientAuth()
  const response = await oauth.clientCredentialsGrantRequest(server, client, auth, parameters, overTls)
  return oauth.processClientCredentialsResponse(server, client, response, txnTokens)
}

/** Exchanges a subject token of the given type for a Txn-Token (RFC 8693). */
async function exchange(server, subjectToken, subjectTokenType) {
  const grant = 'urn:ietf:params:oauth:grant-type:token-exchange'
  const parameters = { ...wanted, subject_token: subjectToken, subject_token_type: subjectTokenType }
  const auth = oauth.TlsClientAuth()
  const response = await oauth.genericTokenEndpointRequest(server, client, auth, grant, parameters, overTls)
  return oauth.processGenericTokenEndpointResponse(server, client, response, txnTokens)
}

/** An error response of Writ (RFC 6749 section 5.2). */
class Refused extends Error {
  constructor(response, { error, reason, error_description }) {
    super(`${reason} (${response.status} ${error}): ${error_description}`)
    this.reason = reason
    this.isTemporary = error === 'temporarily_unavailable'
    this.retryAfter = Number(response.headers.get('retry-after') ?? 1)
  }

  /** The library parses responses from 400 to 499. Its error for any other status contains the unread response. */
  static async from(error) {
    if (error instanceof oauth.ResponseBodyError) return new Refused(error.response, error.cause)
    if (error.code === 'OAUTH_RESPONSE_IS_NOT_CONFORM') return new Refused(error.cause, await error.cause.json())
    return error
  }
}

/** Repeats the request if the error is temporary, after the time in `Retry-After`. */
async function withRetry(request, attempts = 3) {
  for (;;) {
    try {
      return await request()
    } catch (thrown) {
      const error = await Refused.from(thrown)
      attempts -= 1
      if (!error.isTemporary || attempts === 0) throw error
      console.error(`${error.reason}: retrying in ${error.retryAfter} s`)
      await sleep(error.retryAfter * 1000)
    }
  }
}

try {
  const server = await discover()
  const request = {
    client_credentials: () => requestByItself(server, input),
    access_token: () => exchange(server, readFileSync(input, 'utf8').trim(), `${TYPE}access_token`),
    unsigned_json: () => exchange(server, JSON.stringify({ sub: input }), `${TYPE}unsigned_json`),
  }[source]
  console.log((await withRetry(request)).access_token)
} catch (error) {
  // Never log the whole error: it may contain the response, and so the token.
  console.error(error instanceof Refused ? `refused: ${error.message}` : error.message)
  if (error.cause instanceof Error) console.error(error.cause.message)
  process.exitCode = error instanceof Refused ? 1 : 2
}
