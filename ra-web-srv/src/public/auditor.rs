//! The auditor's page, for browsers: a verifier that runs on the other side. The same file is shipped for people to open
//! from their own disks, which proves more: a server that lies sends a page that lies.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The page, which loads nothing.
const PAGE: &str = include_str!("../../assets/auditor.html");

/// Where the page states its policy: the digests of its own scripts and style, and no other origin.
const POLICY_START: &str = "<meta http-equiv=\"Content-Security-Policy\" content=\"";

/// The page, with its policy once more where frames can be forbidden, too.
pub(super) fn page() -> Response {
    let policy = format!("{}; frame-ancestors 'none'", policy());
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept"),
    ];
    (headers, PAGE).into_response()
}

fn policy() -> &'static str {
    let start = PAGE.find(POLICY_START).expect("the page states a policy") + POLICY_START.len();
    let (policy, _) = PAGE[start..].split_once('"').expect("the policy ends");
    policy
}

#[cfg(test)]
mod tests {
    use attestation::Sha256;
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    /// A browser runs nothing whose digest is not in the policy; who edits the page finds the new digests here.
    #[test]
    fn the_policy_names_what_the_page_runs_and_nothing_else() {
        let between = |open: &str, close: &str| -> Vec<String> {
            let parts = PAGE.split(open).skip(1);
            let contents = parts.map(|part| part.split_once(close).unwrap().0);
            contents
                .map(|content| format!("'sha256-{}'", STANDARD.encode(Sha256::of(content.as_bytes()).0)))
                .collect()
        };
        let [style] = between("<style>", "</style>").try_into().unwrap();
        let [verifier] = between("<script id=\"verifier\">", "</script>").try_into().unwrap();
        let [page] = between("<script>", "</script>").try_into().unwrap();
        let expected = format!(
            "default-src 'none'; script-src {verifier} {page}; style-src {style}; connect-src 'self'; base-uri 'none'; form-action 'none'"
        );
        assert_eq!(policy(), expected);
        assert_eq!(PAGE.matches("<script").count(), 2);
    }
}
