// Gets a Txn-Token with golang.org/x/oauth2 and prints it.
//
//	oauth2-go ISSUER CERTS CLIENT PURPOSE client_credentials [SUBJECT]
//	oauth2-go ISSUER CERTS CLIENT PURPOSE access_token FILE
//	oauth2-go ISSUER CERTS CLIENT PURPOSE unsigned_json SUBJECT
//
// CERTS is the folder with ca.pem, CLIENT.pem and CLIENT.key. Exit code 1: refused.
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

// overTLS is a client that proves who it is with its certificate.
func overTLS(certs, client string) (*http.Client, error) {
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

// txnToken asks for one token. Nothing is kept: each transaction has a token of its own.
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

// refusal is what Writ says instead of a token.
type refusal struct {
	Error       string `json:"error"`
	Reason      string `json:"reason"`
	Description string `json:"error_description"`
	status      int
	retryAfter  int
}

// refused reads it from the error, or gives nil if it is another error.
func refused(err error) *refusal {
	var retrieve *oauth2.RetrieveError
	var said refusal
	if !errors.As(err, &retrieve) || json.Unmarshal(retrieve.Body, &said) != nil {
		return nil
	}
	said.status = retrieve.Response.StatusCode
	said.retryAfter, _ = strconv.Atoi(retrieve.Response.Header.Get("Retry-After"))
	return &said
}

// patiently asks again when Writ says that it is worth trying, after the time that it names.
func patiently(request func() (string, error)) (string, error) {
	for attempts := 3; ; {
		token, err := request()
		said := refused(err)
		attempts--
		if said == nil || said.Error != "temporarily_unavailable" || attempts == 0 {
			return token, err
		}
		fmt.Fprintf(os.Stderr, "%s: asking again in %d s\n", said.Reason, said.retryAfter)
		time.Sleep(time.Duration(said.retryAfter) * time.Second)
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
	connection, err := overTLS(certs, client)
	if err != nil {
		return "", err
	}
	return patiently(func() (string, error) { return txnToken(connection, config) })
}

func main() {
	arguments := append(os.Args[1:], "")
	if len(arguments) < 6 {
		fmt.Fprintln(os.Stderr, "usage: oauth2-go ISSUER CERTS CLIENT PURPOSE SOURCE [SUBJECT|FILE]")
		os.Exit(2)
	}
	token, err := run(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
	if said := refused(err); said != nil {
		fmt.Fprintf(os.Stderr, "refused: %s (%d %s): %s\n", said.Reason, said.status, said.Error, said.Description)
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Println(token)
}
