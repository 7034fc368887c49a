//! What a service's refusal means: by what the caller does next, and in words that name the setting
//! to look at.
//!
//! ```text
//! 404                          -> Absent           (NoSuchBucket: Other)
//! 403, AccessDenied            -> Denied           (wrong or outdated credentials: Other)
//! 412, 409                     -> Exists
//! 501, no conditional request  -> Unsupported
//! all else, or no answer       -> Other(why)
//! ```
//!
//! The client library keeps the answer's status and body in the text of its errors only, so they are
//! read from there; the tests hold it to that with a real server.
//!
//! What this module deliberately does not do: it makes no requests, and does not know what was
//! being done.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};

/// Most characters of the service's own words that are repeated.
const MAX_WORDS: usize = 300;

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no such object.
    Absent,
    /// There is such an object already.
    Exists,
    /// The service does not know this kind of request.
    Unsupported,
    /// A permission is missing: this one, if the service named it.
    Denied(Option<&'static str>),
    /// The object is larger than what is read.
    TooLarge {
        /// Its bytes.
        got: u64,
    },
    /// Something else, in words.
    Other(String),
}

/// Permissions that services name in their refusals, the longer of two similar ones first.
const PERMISSIONS: [&str; 9] = [
    "s3:PutObjectAcl",
    "s3:PutObjectTagging",
    "s3:PutObject",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "kms:GenerateDataKey",
    "kms:Decrypt",
];

/// What to do about a refusal, by the service's code for it.
const HINTS: [(&[&str], &str); 7] = [
    (
        &["PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"],
        "the bucket is in another region: set AWS_REGION to it, and AWS_ENDPOINT_URL, where it is \
         given, to that region's address",
    ),
    (
        &["NoSuchBucket"],
        "the bucket does not exist: check its name, AWS_REGION and AWS_ENDPOINT_URL",
    ),
    (
        &["InvalidAccessKeyId", "InvalidAccessKey"],
        "the service does not know AWS_ACCESS_KEY_ID: check it and AWS_ENDPOINT_URL",
    ),
    (
        &["SignatureDoesNotMatch"],
        "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID, or AWS_REGION is another one",
    ),
    (
        &["ExpiredToken", "InvalidToken", "TokenRefreshRequired"],
        "AWS_SESSION_TOKEN is not valid, or not any more: get a new one",
    ),
    (&["RequestTimeTooSkewed"], "the clock of this host is wrong"),
    (&["VirtualHostDomainRequired"], "set AWS_VIRTUAL_HOSTED_STYLE_REQUEST=true"),
];

const REDIRECTED: &str = HINTS[0].1;
const NO_CREDENTIALS: &str = "no credentials were given, and none could be had from this machine: \
    set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for what anybody \
    may read";

/// An answer as far as it can be made out.
struct Answer<'a> {
    status: Option<u16>,
    code: Option<&'a str>,
    message: Option<&'a str>,
    text: &'a str,
}

impl Fault {
    /// What an error of the client library means.
    pub(crate) fn of(error: object_store::Error) -> Self {
        use object_store::Error as E;
        let text = error.to_string();
        let answer = Answer::read(&text);
        match (answer.status, &error) {
            (Some(_), _) => answer.fault(),
            (None, E::NotFound { .. }) => Self::Absent,
            (None, E::AlreadyExists { .. } | E::Precondition { .. }) => Self::Exists,
            (None, E::NotImplemented { .. } | E::NotSupported { .. }) => Self::Unsupported,
            (None, E::PermissionDenied { .. }) => Self::Denied(None),
            _ if text.contains("redirect") => Self::Other(REDIRECTED.to_owned()),
            _ if is_about_credentials(&text) => Self::Other(NO_CREDENTIALS.to_owned()),
            _ => Self::Other(transport_trouble(&error).unwrap_or_else(|| plain(&text))),
        }
    }
}

impl<'a> Answer<'a> {
    fn read(text: &'a str) -> Self {
        let status = ["non-2xx status code: ", "Server returned error response: "]
            .into_iter()
            .find_map(|before| text.split_once(before))
            .map(|(_, after)| after.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(200));
        Self { status, code: element(text, "Code"), message: element(text, "Message"), text }
    }

    fn fault(&self) -> Fault {
        let hint = self.hint();
        let is_conflict =
            matches!(self.code, None | Some("PreconditionFailed" | "ConditionalRequestConflict"));
        match (self.status, self.code) {
            (Some(501), _) | (_, Some("NotImplemented")) => Fault::Unsupported,
            (Some(400), _) if self.text.contains("If-None-Match") => Fault::Unsupported,
            _ if is_about_credentials(self.text) => Fault::Other(NO_CREDENTIALS.to_owned()),
            (Some(404), _) if hint.is_none() => Fault::Absent,
            (Some(403), _) if hint.is_none() => Fault::Denied(self.permission()),
            (Some(409 | 412), _) if is_conflict => Fault::Exists,
            _ => Fault::Other(self.words(hint)),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        let of_code = self.code.and_then(|code| {
            HINTS.iter().find(|(codes, _)| codes.contains(&code)).map(|(_, hint)| *hint)
        });
        of_code.or(match (self.status, self.code) {
            (Some(300..400), _) => Some(REDIRECTED),
            (Some(401), _) => Some("check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            // The answer to a HEAD request has no body to say more.
            (Some(400), None) => Some("check AWS_REGION, AWS_ENDPOINT_URL and AWS_SESSION_TOKEN"),
            _ => None,
        })
    }

    /// The permission that the service names, in whichever way it does.
    fn permission(&self) -> Option<&'static str> {
        let message = self.message?;
        let is_acl = |word: &str| ["acl", "acls", "putobjectacl"].contains(&word);
        let words = message.split(|c: char| !c.is_ascii_alphanumeric());
        if words.map(str::to_ascii_lowercase).any(|word| is_acl(&word)) {
            return Some(PERMISSIONS[0]);
        }
        PERMISSIONS.into_iter().find(|permission| message.contains(permission))
    }

    fn words(&self, hint: Option<&str>) -> String {
        let mut words = format!("the service answered {}", self.status.unwrap_or_default());
        for (before, part) in [(" ", self.code), (": ", self.message)] {
            if let Some(part) = part {
                words += before;
                words += plain(part).trim_end_matches('.');
            }
        }
        if let Some(region) = element(self.text, "Region") {
            words += " (region ";
            words += &plain(region);
            words.push(')');
        }
        if let Some(hint) = hint {
            words += "; ";
            words += hint;
        }
        words
    }
}

/// Without credentials, the client library asks the machine that it runs on for some.
fn is_about_credentials(text: &str) -> bool {
    text.contains("/latest/api/token") || text.contains("/latest/meta-data/")
}

/// The chain of reasons below a request that was not answered.
fn transport_trouble(error: &(dyn Error + 'static)) -> Option<String> {
    let chain = || std::iter::successors(Some(error), |&error| error.source());
    let http = chain().find_map(|error| error.downcast_ref::<HttpError>())?;
    let below = chain().skip_while(|error| !error.is::<HttpError>()).skip(1);
    let reasons: Vec<_> = below.map(|error| plain(&error.to_string())).collect();
    let reasons = reasons.join(": ");
    Some(match http.kind() {
        _ if reasons.contains("certificate") => {
            format!("{reasons}; set AWS_CA_BUNDLE to a file with the authority's certificate")
        }
        HttpErrorKind::Connect => {
            format!("{reasons}; check AWS_ENDPOINT_URL, AWS_REGION and the network")
        }
        _ => reasons,
    })
}

/// The text of the first element of this name.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = after.split_once(&format!("</{name}>"))?;
    Some(inner.trim()).filter(|inner| !inner.is_empty())
}

/// Somebody else's words, fit for a log line.
fn plain(words: &str) -> String {
    let is_odd =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let kept = words.chars().map(|c| if is_odd(c) { ' ' } else { c }).take(MAX_WORDS);
    kept.collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(status: &str, body: &str) -> Fault {
        let source = format!("Server returned non-2xx status code: {status}: {body}");
        Fault::of(object_store::Error::Generic { store: "S3", source: source.into() })
    }

    fn xml(code: &str, message: &str) -> String {
        format!("<?xml?><Error><Code>{code}</Code><Message>{message}</Message></Error>")
    }

    #[test]
    fn refusals_are_sorted_by_what_is_to_be_done() {
        assert_eq!(fault_of("404 Not Found", ""), Fault::Absent);
        assert_eq!(fault_of("404 Not Found", &xml("NoSuchKey", "x")), Fault::Absent);
        assert_eq!(fault_of("403 Forbidden", ""), Fault::Denied(None));
        assert_eq!(fault_of("412 Precondition Failed", ""), Fault::Exists);
        let busy = xml("OperationAborted", "busy");
        assert!(matches!(fault_of("409 Conflict", &busy), Fault::Other(_)));
        assert_eq!(fault_of("501 Not Implemented", ""), Fault::Unsupported);
        let unknown = xml("InvalidArgument", "unknown header If-None-Match");
        assert_eq!(fault_of("400 Bad Request", &unknown), Fault::Unsupported);
    }

    #[test]
    fn the_permission_is_the_one_that_the_service_names() {
        let named = |message: &str| fault_of("403 Forbidden", &xml("AccessDenied", message));
        let message = "User: u is not authorized to perform: s3:PutObject on resource: r";
        assert_eq!(named(message), Fault::Denied(Some("s3:PutObject")));
        assert_eq!(named("not allowed: s3:PutObjectAcl"), Fault::Denied(Some("s3:PutObjectAcl")));
        assert_eq!(named("you may not set an ACL"), Fault::Denied(Some("s3:PutObjectAcl")));
        assert_eq!(named("no access to oracle"), Fault::Denied(None));
        assert_eq!(named("kms:Decrypt"), Fault::Denied(Some("kms:Decrypt")));
    }

    #[test]
    fn the_words_name_the_setting_to_look_at() {
        let says = |status: &str, code: &str, words: &str| match fault_of(status, &xml(code, "m")) {
            Fault::Other(text) => assert!(text.contains(words), "{text}"),
            other => panic!("{code}: {other:?}"),
        };
        says("404 Not Found", "NoSuchBucket", "bucket does not exist");
        says("403 Forbidden", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY");
        says("403 Forbidden", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID");
        says("403 Forbidden", "RequestTimeTooSkewed", "clock");
        says("400 Bad Request", "ExpiredToken", "AWS_SESSION_TOKEN");
        says("400 Bad Request", "AuthorizationHeaderMalformed", "AWS_REGION");
        says("301 Moved Permanently", "", "AWS_REGION");
        says("500 Internal Server Error", "InternalError", "answered 500 InternalError: m");
    }

    #[test]
    fn words_of_others_cannot_move_the_cursor_or_fill_the_log() {
        let long = "\u{1b}[2Jx\n".repeat(MAX_WORDS);
        let words = plain(&long);
        assert!(words.len() <= MAX_WORDS && !words.contains(['\u{1b}', '\n']), "{words}");
    }
}
