from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("hosting", "0010_sessions"),
    ]

    operations = [
        migrations.AddField(
            model_name="environment",
            name="other_paths",
            field=models.BooleanField(default=False),
        ),
    ]
