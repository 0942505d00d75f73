//! Where the providers of cloud credentials make new ones, and take old ones back. Names are those of
//! `system_cloudcredentials.provider`.
//!
//! Source: the classes in `middlewared/rclone/remote/*.py` of <https://github.com/truenas/middleware>
//! for the names, each provider's own help for the places.

/// How a provider's credentials are made anew.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Provider {
    /// As the database has it.
    pub(crate) name: &'static str,
    /// As people call it.
    pub(crate) title: &'static str,
    /// Where the new credential is made.
    pub(crate) at: &'static str,
    /// What is done there.
    pub(crate) how: &'static str,
}

impl Provider {
    /// The provider of this name.
    pub(crate) fn of(name: &str) -> Option<&'static Self> {
        PROVIDERS.iter().find(|provider| provider.name == name)
    }
}

/// For a provider that is not known, or not said.
pub(crate) const ANY: Provider = Provider {
    name: "-",
    title: "-",
    at: "the provider's own pages",
    how: "make a new key or password, put it into TrueNAS, and take the old one back",
};

const SIGN_IN: &str = "take the access of rclone or TrueNAS back, then sign in anew in TrueNAS, which makes a new token";
const PASSWORD: &str = "change the password of the user, or the authorised key";

const PROVIDERS: [Provider; 18] = [
    Provider {
        name: "S3",
        title: "Amazon S3, or another with its API",
        at: "https://console.aws.amazon.com/iam (Users, Security credentials), or the endpoint's own \
             console",
        how: "make a second access key, put it into TrueNAS, then deactivate and delete the first",
    },
    Provider {
        name: "B2",
        title: "Backblaze B2",
        at: "https://secure.backblaze.com/app_keys.htm",
        how: "make a new application key, put it into TrueNAS, then delete the old one",
    },
    Provider {
        name: "AZUREBLOB",
        title: "Microsoft Azure Blob Storage",
        at: "https://portal.azure.com (the storage account, Access keys)",
        how: "put the second key into TrueNAS, then rotate the first",
    },
    Provider {
        name: "GOOGLE_CLOUD_STORAGE",
        title: "Google Cloud Storage",
        at: "https://console.cloud.google.com/iam-admin/serviceaccounts (the account, Keys)",
        how: "make a new key in JSON, put it into TrueNAS, then delete the old one",
    },
    Provider {
        name: "GOOGLE_DRIVE",
        title: "Google Drive",
        at: "https://myaccount.google.com/connections",
        how: SIGN_IN,
    },
    Provider {
        name: "GOOGLE_PHOTOS",
        title: "Google Photos",
        at: "https://myaccount.google.com/connections",
        how: SIGN_IN,
    },
    Provider {
        name: "DROPBOX",
        title: "Dropbox",
        at: "https://www.dropbox.com/account/connected_apps",
        how: SIGN_IN,
    },
    Provider {
        name: "STORJ_IX",
        title: "Storj iX",
        at: "the Storj console of your satellite (Access)",
        how: "make new S3 credentials, put them into TrueNAS, then delete the old access",
    },
    Provider {
        name: "PCLOUD",
        title: "pCloud",
        at: "https://my.pcloud.com (Settings, Linked accounts)",
        how: SIGN_IN,
    },
    Provider {
        name: "BOX",
        title: "Box",
        at: "https://app.box.com/account (Integrations)",
        how: SIGN_IN,
    },
    Provider {
        name: "ONEDRIVE",
        title: "Microsoft OneDrive",
        at: "https://account.microsoft.com/privacy/app-access, or the organisation's \
             https://myapps.microsoft.com",
        how: SIGN_IN,
    },
    Provider {
        name: "YANDEX",
        title: "Yandex Disk",
        at: "https://id.yandex.com/personal/data-access",
        how: SIGN_IN,
    },
    Provider {
        name: "SFTP",
        title: "SFTP",
        at: "the server",
        how: PASSWORD,
    },
    Provider {
        name: "FTP",
        title: "FTP",
        at: "the server",
        how: "change the password of the user",
    },
    Provider {
        name: "WEBDAV",
        title: "WebDAV",
        at: "the server; of Nextcloud and ownCloud in Settings, Security",
        how: "make a new app password, put it into TrueNAS, then take the old one back",
    },
    Provider {
        name: "MEGA",
        title: "MEGA",
        at: "https://mega.io (Settings, Security)",
        how: "change the password, and end all other sessions",
    },
    Provider {
        name: "OPENSTACK_SWIFT",
        title: "OpenStack Swift",
        at: "the cloud's own dashboard (Identity, Application Credentials)",
        how: "make a new application credential or password, put it into TrueNAS, then delete the old \
              one",
    },
    Provider {
        name: "HUBIC",
        title: "Hubic",
        at: "nowhere any more",
        how: "the service has ended: delete the credential",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_provider_is_there_once() {
        for provider in &PROVIDERS {
            assert_eq!(Provider::of(provider.name), Some(provider));
            assert!(!provider.at.is_empty() && !provider.how.is_empty());
        }
        assert_eq!(Provider::of("s3"), None);
    }
}
