//! `writ-conformance --json`: its exit code and its report.

use std::process::Command;

use serde_json::Value;

pub(crate) struct Report {
    code: Option<i32>,
    pub(crate) json: Value,
}

impl Report {
    /// Runs the command and fails the test if it shows a JWT or one of these secrets.
    pub(crate) fn of(mut command: Command, secrets: &[&str]) -> Self {
        let output = command.arg("--json").output().expect("the executable starts");
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
        for secret in secrets.iter().chain(&["eyJ"]) {
            assert!(!stdout.contains(secret) && !stderr.contains(secret), "a token is shown");
        }
        let json = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {stderr}"));
        Self { code: output.status.code(), json }
    }

    /// The names of the checks with that outcome.
    pub(crate) fn names(&self, outcome: &str) -> Vec<&str> {
        let checks = self.json["checks"].as_array().expect("checks");
        let with = checks.iter().filter(|check| check["outcome"] == outcome);
        with.map(|check| check["name"].as_str().expect("a name")).collect()
    }

    /// Fails the test unless these checks failed and no other, and the exit code says so.
    #[track_caller]
    pub(crate) fn fails(&self, checks: &[&str]) {
        assert_eq!(self.names("failed"), checks, "{:#}", self.json);
        assert_eq!(self.code, Some(i32::from(!checks.is_empty())));
    }
}
