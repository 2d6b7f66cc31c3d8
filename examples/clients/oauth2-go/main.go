// Gets a Txn-Token with golang.org/x/oauth2 and prints it.
//
//	oauth2-go ISSUER CERTS CLIENT PURPOSE client_credentials [SUBJECT]
//	oauth2-go ISSUER CERTS CLIENT PURPOSE access_token FILE
//	oauth2-go ISSUER CERTS CLIENT PURPOSE unsigned_json SUBJECT
//
// CERTS is the folder with ca.pem, CLIENT.pem and CLIENT.key. Exit code 1: Writ refused the request.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const (
	trustDomain   = "trust-domain.example" // yours
	tokenType     = "urn:ietf:params:oauth:token-type:"
	tokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
)

// mutualTLSClient authenticates with the certificate of the client.
func mutualTLSClient(certs, client string) (*http.Client, error) {
	certificate, err := tls.LoadX509KeyPair(certs+"/"+client+".pem", certs+"/"+client+".key")
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(certs + "/ca.pem")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("no certificate in ca.pem")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{certificate},
		RootCAs:      roots,
	}}
	return &http.Client{Transport: transport, Timeout: 15 * time.Second}, nil
}

// txnToken requests one token. It caches nothing: each transaction needs its own token.
func txnToken(client *http.Client, config clientcredentials.Config) (string, error) {
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, client)
	token, err := config.Token(ctx)
	if err != nil {
		return "", err
	}
	if token.Extra("issued_token_type") != tokenType+"txn_token" {
		return "", errors.New("not a Txn-Token")
	}
	return token.AccessToken, nil
}

// refusal is an error response of Writ (RFC 6749 section 5.2).
type refusal struct {
	Error       string `json:"error"`
	Reason      string `json:"reason"`
	Description string `json:"error_description"`
	status      int
	retryAfter  int
}

// parseRefusal reads the response from the error; it returns nil for any other error.
func parseRefusal(err error) *refusal {
	var retrieve *oauth2.RetrieveError
	var parsed refusal
	if !errors.As(err, &retrieve) || json.Unmarshal(retrieve.Body, &parsed) != nil {
		return nil
	}
	parsed.status = retrieve.Response.StatusCode
	parsed.retryAfter, _ = strconv.Atoi(retrieve.Response.Header.Get("Retry-After"))
	return &parsed
}

// withRetry repeats the request if the error is temporary, after the time in Retry-After.
func withRetry(request func() (string, error)) (string, error) {
	for attempts := 3; ; {
		token, err := request()
		refusal := parseRefusal(err)
		attempts--
		if refusal == nil || refusal.Error != "temporarily_unavailable" || attempts == 0 {
			return token, err
		}
		fmt.Fprintf(os.Stderr, "%s: retrying in %d s\n", refusal.Reason, refusal.retryAfter)
		time.Sleep(time.Duration(refusal.retryAfter) * time.Second)
	}
}

func run(issuer, certs, client, purpose, source, input string) (string, error) {
	config := clientcredentials.Config{
		ClientID:  client,
		TokenURL:  issuer + "/token",
		Scopes:    []string{purpose},
		AuthStyle: oauth2.AuthStyleInParams, // else an Authorization header is tried first, which Writ refuses
		EndpointParams: url.Values{
			"requested_token_type": {tokenType + "txn_token"},
			"audience":             {trustDomain},
		},
	}
	switch {
	case source == "client_credentials" && input != "":
		config.EndpointParams.Set("requested_subject", input)
	case source == "access_token":
		token, err := os.ReadFile(input)
		if err != nil {
			return "", err
		}
		config.EndpointParams.Set("grant_type", tokenExchange)
		config.EndpointParams.Set("subject_token", strings.TrimSpace(string(token)))
		config.EndpointParams.Set("subject_token_type", tokenType+"access_token")
	case source == "unsigned_json":
		subject, err := json.Marshal(map[string]string{"sub": input})
		if err != nil {
			return "", err
		}
		config.EndpointParams.Set("grant_type", tokenExchange)
		config.EndpointParams.Set("subject_token", string(subject))
		config.EndpointParams.Set("subject_token_type", tokenType+"unsigned_json")
	}
	connection, err := mutualTLSClient(certs, client)
	if err != nil {
		return "", err
	}
	return withRetry(func() (string, error) { return txnToken(connection, config) })
}

func main() {
	arguments := append(os.Args[1:], "")
	if len(arguments) < 6 {
		fmt.Fprintln(os.Stderr, "usage: oauth2-go ISSUER CERTS CLIENT PURPOSE SOURCE [SUBJECT|FILE]")
		os.Exit(2)
	}
	token, err := run(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
	if refusal := parseRefusal(err); refusal != nil {
		fmt.Fprintf(os.Stderr, "refused: %s (%d %s): %s\n", refusal.Reason, refusal.status, refusal.Error, refusal.Description)
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Println(token)
}
