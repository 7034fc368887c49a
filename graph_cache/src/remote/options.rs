//! What a remote store is opened with: from an address and settings to a client.
//!
//! What this module deliberately does not do: it reads no environment; whoever opens the store
//! passes on what it finds there.

use std::fmt;
use std::time::Duration;

use fs_err as fs;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, Certificate, ClientConfigKey, ClientOptions, RetryConfig};

use crate::trust::Trust;

/// The longest time for a connection to come about.
const MAX_CONNECT: Duration = Duration::from_secs(5);
/// Connections that were idle for longer are not used again: somebody may have forgotten them.
const MAX_IDLE: Duration = Duration::from_secs(15);
/// The longest pause before a request is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const CA_BUNDLE: &str = "aws_ca_bundle";

/// What a [`RemoteStore`](crate::RemoteStore) is opened with.
#[derive(Clone)]
pub struct RemoteOptions {
    /// Settings by their `AWS_*` names, such as `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`,
    /// `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`, `AWS_SKIP_SIGNATURE`, `AWS_CA_BUNDLE` (a PEM file with
    /// more certificates to trust). Other `AWS_*` names and empty values are ignored, so that a
    /// whole environment may be passed on; of two values, the later one counts.
    pub settings: Vec<(String, String)>,
    /// Whose entries may be used. Only signatures matter here: who can write to a bucket is known to
    /// whoever named it.
    pub trust: Trust,
    /// How often a request that failed is tried again.
    pub retries: u32,
    /// How long a request may take with all its retries; for a large object, a second more for each
    /// MiB.
    pub timeout: Duration,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            settings: Vec::new(),
            trust: Trust::default(),
            retries: 3,
            timeout: Duration::from_mins(1),
        }
    }
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only: among the values there are secrets.
        let names: Vec<_> = self.settings.iter().map(|(name, _)| name).collect();
        f.debug_struct("RemoteOptions")
            .field("settings", &names)
            .field("trust", &self.trust)
            .field("retries", &self.retries)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Bucket and prefix of an address such as `s3://bucket/some/prefix`.
pub(crate) fn split_url(url: &str) -> Result<(&str, &str), String> {
    let expected = "expected `s3://bucket` or `s3://bucket/prefix` (the service's own address, the \
                    region and credentials are settings: AWS_ENDPOINT_URL, AWS_REGION, \
                    AWS_ACCESS_KEY_ID and so on)";
    let Some(rest) = url.strip_prefix("s3://") else {
        return Err(format!("the address does not start with `s3://`: {expected}"));
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    // The name is not repeated: it could be credentials with an `@` behind them.
    if bucket.is_empty() || !bucket.chars().all(is_plain) {
        return Err(format!(
            "the name of the bucket has other characters than letters, digits, `.`, `-` and `_`, or none: {expected}"
        ));
    }
    if prefix.contains(['?', '#']) {
        return Err(format!("the prefix has a `?` or `#`: {expected}"));
    }
    Ok((bucket, prefix.trim_matches('/')))
}

/// A client for a bucket.
pub(crate) fn connect(bucket: &str, options: &RemoteOptions) -> Result<AmazonS3, String> {
    // The default of the whole process, unless it has one: there is no other way to say it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: MAX_BACKOFF,
            base: 2.0,
        },
        max_retries: options.retries as usize,
        retry_timeout: options.timeout,
    };
    let builder = AmazonS3Builder::new()
        .with_client_options(client_options(options)?)
        // Not every service knows the request that deletes many objects at once.
        .with_disable_bulk_delete(true)
        .with_retry(retry);
    let builder = with_settings(builder, options)?.with_bucket_name(bucket);
    let builder = with_endpoint(builder, bucket)?;
    builder.build().map_err(|error| format!("the settings do not make a client: {error}"))
}

fn client_options(options: &RemoteOptions) -> Result<ClientOptions, String> {
    let mut client = ClientOptions::new()
        // How long a request may take depends on the size of what it moves, see `objects`.
        .with_timeout_disabled()
        .with_connect_timeout(options.timeout.min(MAX_CONNECT))
        .with_pool_idle_timeout(MAX_IDLE);
    let is_bundle = |(name, value): &&(String, String)| {
        name.eq_ignore_ascii_case(CA_BUNDLE) && !value.is_empty()
    };
    if let Some((name, path)) = options.settings.iter().rfind(is_bundle) {
        let pem = fs::read(path).map_err(|error| format!("{name}: {error}"))?;
        let certificates = Certificate::from_pem_bundle(&pem)
            .map_err(|error| format!("{name}: `{path}` has no certificates in PEM: {error}"))?;
        for certificate in certificates {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

fn with_settings(
    mut builder: AmazonS3Builder,
    options: &RemoteOptions,
) -> Result<AmazonS3Builder, String> {
    for (name, value) in &options.settings {
        let lower = name.to_ascii_lowercase();
        match lower.parse::<AmazonS3ConfigKey>() {
            _ if value.is_empty() || lower == CA_BUNDLE => {}
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) if lower.starts_with("aws_") => {
                tracing::trace!(name, "setting without a meaning here");
            }
            Err(_) => return Err(format!("unknown setting `{name}`")),
        }
    }
    Ok(builder)
}

/// Checks the service's address, and puts the bucket into it where the bucket is a host name.
fn with_endpoint(mut builder: AmazonS3Builder, bucket: &str) -> Result<AmazonS3Builder, String> {
    use AmazonS3ConfigKey as Key;
    let is_on = |key: Key| builder.get_config_value(&key).is_some_and(|value| is_true(&value));
    let endpoint =
        [Key::S3Endpoint, Key::Endpoint].iter().find_map(|key| builder.get_config_value(key));
    let Some(endpoint) = endpoint else { return Ok(builder) };
    let endpoint = endpoint.trim_end_matches('/');
    let (scheme, host) = endpoint.split_once("://").unwrap_or_default();
    if !matches!(scheme, "http" | "https") || host.is_empty() || host.contains('@') {
        return Err("AWS_ENDPOINT_URL: expected `https://host` or `http://host:port`".to_owned());
    }
    if scheme == "http" && !is_on(Key::Client(ClientConfigKey::AllowHttp)) {
        return Err(format!(
            "AWS_ENDPOINT_URL is `{endpoint}`, without encryption: set AWS_ALLOW_HTTP=true to \
             allow it"
        ));
    }
    let endpoint = if is_on(Key::VirtualHostedStyleRequest)
        && !host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'))
    {
        format!("{scheme}://{bucket}.{host}")
    } else {
        endpoint.to_owned()
    };
    if scheme == "http" && builder.get_config_value(&Key::WebIdentityTokenFile).is_none() {
        // Else a machine without any certificates could not even make a client.
        let key = Key::Client(ClientConfigKey::NoSystemCertificates);
        builder = builder.with_config(key, "true");
    }
    Ok(builder.with_config(Key::S3Endpoint, &endpoint).with_config(Key::Endpoint, endpoint))
}

fn is_true(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(settings: &[(&str, &str)]) -> RemoteOptions {
        let settings = settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        RemoteOptions { settings: settings.collect(), ..RemoteOptions::default() }
    }

    fn endpoint(settings: &[(&str, &str)]) -> Result<String, String> {
        let builder = with_settings(AmazonS3Builder::new(), &options(settings))?;
        let builder = with_endpoint(builder, "bucket")?;
        Ok(builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint).unwrap_or_default())
    }

    #[test]
    fn an_address_is_a_bucket_and_a_prefix() {
        assert_eq!(split_url("s3://b"), Ok(("b", "")));
        assert_eq!(split_url("s3://my-b.c/p/q/"), Ok(("my-b.c", "p/q")));
        for bad in ["", "b/p", "s3://", "s3:///p", "https://b/p", "s3://b/p?x", "s3://key:geheim@b"]
        {
            let error = split_url(bad).unwrap_err();
            assert!(error.contains("expected `s3://bucket`"), "{bad}: {error}");
            assert!(!error.contains("geheim"));
        }
    }

    #[test]
    fn the_bucket_is_put_into_the_host_name_once() {
        let obs = "https://obs.cn-north-4.myhuaweicloud.com";
        let hosted = "https://bucket.obs.cn-north-4.myhuaweicloud.com";
        let on = ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true");
        assert_eq!(endpoint(&[("AWS_ENDPOINT_URL", obs)]).unwrap(), obs);
        for given in [obs, hosted, &format!("{obs}/")] {
            assert_eq!(endpoint(&[("AWS_ENDPOINT_URL", given), on]).unwrap(), hosted);
        }
        assert_eq!(endpoint(&[on]).unwrap(), "");
    }

    #[test]
    fn encryption_is_given_up_only_on_request() {
        let minio = ("AWS_ENDPOINT_URL", "http://localhost:9000");
        assert!(endpoint(&[minio]).unwrap_err().contains("AWS_ALLOW_HTTP=true"));
        assert!(endpoint(&[minio, ("AWS_ALLOW_HTTP", "1")]).is_ok());
        assert!(endpoint(&[("AWS_ENDPOINT_URL", "localhost")]).is_err());
    }

    #[test]
    fn foreign_settings_are_ignored_but_misspelt_ones_are_not() {
        let ignored = [("AWS_PROFILE", "x"), ("AWS_ENDPOINT_URL", ""), ("AWS_PAGER", "less")];
        assert_eq!(endpoint(&ignored).unwrap(), "");
        assert!(endpoint(&[("REGOIN", "x")]).unwrap_err().contains("`REGOIN`"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = options(&[("AWS_SECRET_ACCESS_KEY", "geheim")]);
        let shown = format!("{options:?}");
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("geheim"), "{shown}");
    }
}
