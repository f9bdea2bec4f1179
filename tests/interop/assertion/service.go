// A service that takes what the gate has allowed: `service PORT KEYS ISSUER AUDIENCE`.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"

	"service/gate"
)

func main() {
	port, keys, issuer, audience := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(func(answer http.ResponseWriter, asked *http.Request) {
		assertion := asked.Header.Get("X-Portcullis-Assertion")
		body, err := io.ReadAll(asked.Body)
		var set gate.Keys
		if err == nil {
			set, err = read(keys)
		}
		var claims *gate.Claims
		if err == nil {
			claims, err = gate.Allowed(assertion, set, issuer, audience, asked.Method, asked.RequestURI, body)
		}
		told := map[string]string{"assertion": assertion}
		if err == nil {
			told["sub"] = claims.Sub
		} else {
			told = map[string]string{"refused": err.Error()}
			answer.WriteHeader(http.StatusForbidden)
		}
		json.NewEncoder(answer).Encode(told)
	})))
}

func read(url string) (keys gate.Keys, err error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	err = json.NewDecoder(answer.Body).Decode(&keys)
	return keys, err
}
