from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("hosting", "0007_release_egress"),
    ]

    operations = [
        migrations.AddField(
            model_name="environment",
            name="heals_sessions",
            field=models.BooleanField(default=True),
        ),
    ]
